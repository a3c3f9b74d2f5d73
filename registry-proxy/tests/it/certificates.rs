//! Flags for certificates: heeded, and named when they are of no use.

use crate::support::{Layer, Registry, tar};

#[test]
fn settings_that_make_no_sense_are_named_with_file_and_line() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("a", "t", &[Layer::gzip(&tar(&[("f", b"x")]))]);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("ca.pem"), "hello").unwrap();
    let own = directory.path().join(registry.address().to_string());
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), "\nskip_verify = 1\n").unwrap();
    let reference = registry.reference("a:t");
    for (flags, want) in [
        (["--tls-ca", &path("ca.pem")], "ca.pem: line 1: no certificate in it"),
        (["--tls-cert", &path("ca.pem")], "ca.pem: line 1: no certificate in it"),
        (["--certs-dir", &path("")], "hosts.toml: line 2: skip_verify is true or false"),
    ] {
        let run = registry.run(&["inspect", flags[0], flags[1], &reference]);
        assert!(run.failed().contains(want), "{}", run.failed());
    }
    registry.run(&["inspect", &reference]).succeeded();
}

#[test]
fn a_directory_may_lead_elsewhere() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("a", "t", &[Layer::gzip(&tar(&[("f", b"x")]))]);
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("registry.invalid");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), format!("server = \"http://{}\"\n", registry.address())).unwrap();
    let certs = directory.path().display().to_string();
    registry.run(&["inspect", "--certs-dir", &certs, "registry.invalid/a:t"]).succeeded();
}
