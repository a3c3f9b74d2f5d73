//! Directories of settings, as Docker's and containerd's users lay them out.

use std::fs;
use std::path::Path;

use super::{Found, read};
use crate::hosts::HostsError;
use crate::hosts::settings::{ClientCertificate, RegistryHosts};

/// A directory with these files, each holding its own name.
fn directory(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    root
}

fn mirrors_of(root: &Path, registry: &str) -> Option<usize> {
    read(root, registry).unwrap().map(|(_, hosts)| hosts.mirrors.len())
}

#[test]
fn certificates_lie_as_docker_has_them() {
    let root = directory(&["r.example:5000/b.crt", "r.example:5000/a.crt", "r.example:5000/c.cert"]);
    let own = root.path().join("r.example:5000");
    for name in ["c.key", "README"] {
        fs::write(own.join(name), "").unwrap();
    }
    let (found, hosts) = read(root.path(), "r.example:5000").unwrap().unwrap();
    assert_eq!((found, hosts.mirrors.len()), (Found::Own, 0));
    assert_eq!(hosts.server.tls.authorities, [own.join("a.crt"), own.join("b.crt")]);
    let pair = ClientCertificate { certificate: own.join("c.cert"), key: Some(own.join("c.key")) };
    assert_eq!(hosts.server.tls.client, [pair]);
    for other in ["r.example", "r.example:5001", "other.example", "..", ".", "a/b"] {
        assert!(read(root.path(), other).unwrap().is_none(), "{other}");
    }
}

#[test]
fn directories_are_named_as_containerd_looks_for_them() {
    let root = directory(&["r.example_5000_/x", "r.example:5000/x", "_default/x", "registry-1.docker.io/x"]);
    let mirrors = |name: &str, count: usize| {
        let hosts: String = (0..count).map(|n| format!("[host.\"https://m{n}.example\"]\n")).collect();
        fs::write(root.path().join(name).join("hosts.toml"), hosts).unwrap();
    };
    mirrors("r.example_5000_", 1);
    mirrors("r.example:5000", 2);
    mirrors("_default", 3);
    mirrors("registry-1.docker.io", 4);
    for (registry, want) in
        [("r.example:5000", 1), ("r.example", 3), ("_default", 3), ("[::1]:80", 3), ("docker.io", 4)]
    {
        assert_eq!(mirrors_of(root.path(), registry), Some(want), "{registry}");
    }
    fs::remove_dir_all(root.path().join("r.example_5000_")).unwrap();
    assert_eq!(mirrors_of(root.path(), "r.example:5000"), Some(2));
    assert_eq!(read(root.path(), "r.example").unwrap().unwrap().0, Found::Default);
}

#[test]
fn a_missing_directory_is_empty() {
    assert!(read(Path::new("/nonexistent"), "r.example").unwrap().is_none());
    let root = directory(&["r.example"]);
    assert!(read(root.path(), "r.example").unwrap().is_none());
    assert!(read(&root.path().join("r.example"), "r.example").unwrap().is_none());
    let root = directory(&["r.example/hosts.toml"]);
    assert_eq!(read(root.path(), "r.example").unwrap().unwrap().1, RegistryHosts::default());
}

#[test]
fn errors_name_the_file() {
    let error = |files: &[&str], text: Option<&str>| {
        let root = directory(files);
        if let Some(text) = text {
            fs::write(root.path().join("r/hosts.toml"), text).unwrap();
        }
        let error = read(root.path(), "r").unwrap_err();
        error.to_string().replace(&root.path().display().to_string(), "D")
    };
    assert_eq!(error(&["r/x.key"], None), "D/r/x.key: a key without its certificate D/r/x.cert");
    let want =
        "D/r/x.cert: a client certificate without its key D/r/x.key (an authority's file ends in .crt)";
    assert_eq!(error(&["r/x.cert"], None), want);
    let want = "D/r/hosts.toml: line 2: skip_verify is true or false, and not of type integer";
    assert_eq!(error(&["r/x"], Some("\nskip_verify = 1")), want);
    let root = directory(&["r/hosts.toml/x"]);
    let error = read(root.path(), "r").unwrap_err();
    assert!(
        matches!(&error, HostsError::Unreadable { .. }) && error.to_string().ends_with("is not a file"),
        "{error}"
    );
    let root = directory(&["r/x"]);
    fs::write(root.path().join("r/hosts.toml"), b"\xff").unwrap();
    assert!(read(root.path(), "r").unwrap_err().to_string().ends_with("is not text"));
    fs::File::create(root.path().join("r/hosts.toml")).unwrap().set_len(5 << 20).unwrap();
    assert!(read(root.path(), "r").unwrap_err().to_string().contains("is longer than"));
}
