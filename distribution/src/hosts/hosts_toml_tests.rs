//! `hosts.toml`, as containerd's documentation and its users write it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{HostsTomlError, RegistryHosts};
use crate::hosts::settings::{Capabilities, ClientCertificate, Host};

fn read(text: &str) -> Result<RegistryHosts, HostsTomlError> {
    RegistryHosts::from_toml(text, Path::new("/certs.d/r.example"))
}

fn api(host: &Host) -> String {
    host.api.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn capabilities(names: &str) -> Capabilities {
    let has = |name| names.contains(name);
    Capabilities {
        pull: has("pull"),
        resolve: has("resolve"),
        referrers: has("referrers"),
        push: has("push"),
    }
}

#[test]
fn hosts_come_in_the_order_of_the_file_and_the_server_last() {
    let hosts = read(
        r#"
        server = "https://registry-1.docker.io"

        [host."https://z.example"]
          capabilities = ["pull"]
        [host."http://10.0.0.1:5000"]
          capabilities = ["Pull", "resolve"]
        [host."https://a.example/v2/hub"]
          override_path = true
          [host."https://a.example/v2/hub".header]
            x-team = "t"
        "#,
    )
    .unwrap();
    let apis: Vec<_> = hosts.mirrors.iter().map(api).collect();
    assert_eq!(apis, ["https://z.example/v2", "http://10.0.0.1:5000/v2", "https://a.example/v2/hub"]);
    assert_eq!(api(&hosts.server), "https://registry-1.docker.io/v2");
    let able: Vec<_> = hosts.mirrors.iter().map(|mirror| mirror.capabilities).collect();
    assert_eq!(able, [capabilities("pull"), capabilities("pull resolve"), Capabilities::default()]);
    assert_eq!(hosts.server.capabilities, Capabilities::default());
    assert_eq!(hosts.mirrors[2].headers["x-team"], "t");
    assert!(hosts.server.headers.is_empty());
}

#[test]
fn settings_above_the_hosts_are_the_servers() {
    let hosts = read(
        r#"
        ca = "ca.crt"
        client = "/abs/client.pem"
        skip_verify = true
        dial_timeout = "1m1.5s"
        proxy = "http://proxy.example:8080"
        capabilities = ["resolve", "push"]
        [header]
          authorization = "Basic hunter2"
          x-many = ["a", "b"]
        "#,
    )
    .unwrap();
    assert_eq!(hosts.mirrors, []);
    let server = hosts.server;
    assert_eq!(server.api, None);
    assert_eq!(server.tls.authorities, [PathBuf::from("/certs.d/r.example/ca.crt")]);
    assert_eq!(server.tls.client, [ClientCertificate { certificate: "/abs/client.pem".into(), key: None }]);
    assert!(server.tls.skip_verify);
    assert_eq!(server.connect_timeout, Some(Duration::from_millis(61_500)));
    assert_eq!(server.proxy.as_ref().map(|url| url.as_str()), Some("http://proxy.example:8080/"));
    assert_eq!(server.capabilities, capabilities("resolve push"));
    assert_eq!(server.headers.get_all("x-many").iter().count(), 2);
    assert!(!format!("{server:?}").contains("hunter2"));
}

#[test]
fn files_come_alone_in_lists_and_in_pairs() {
    let client = |text: &str| read(&format!("client = {text}")).unwrap().server.tls.client;
    let of = |certificate: &str, key: Option<&str>| ClientCertificate {
        certificate: Path::new("/certs.d/r.example").join(certificate),
        key: key.map(|key| Path::new("/certs.d/r.example").join(key)),
    };
    assert_eq!(client(r#""a.pem""#), [of("a.pem", None)]);
    assert_eq!(client(r#"["a.pem", "b.pem"]"#), [of("a.pem", None), of("b.pem", None)]);
    assert_eq!(
        client(r#"[["a.cert", "a.key"], ["b.pem", ""]]"#),
        [of("a.cert", Some("a.key")), of("b.pem", None)]
    );
    let authorities = read(r#"ca = ["one.crt", "/two.crt"]"#).unwrap().server.tls.authorities;
    assert_eq!(authorities, [PathBuf::from("/certs.d/r.example/one.crt"), PathBuf::from("/two.crt")]);
}

#[test]
fn an_empty_file_says_nothing() {
    for text in ["", "\n# nothing\n", "server = \"\"", "[host]", "unknown = 1\n[later]\nkey = [2]"] {
        assert_eq!(read(text).unwrap(), RegistryHosts::default(), "{text:?}");
    }
}

#[test]
fn what_makes_no_sense_is_named_with_its_line() {
    for (text, want) in [
        ("server = ", "line 1: string values must be quoted"),
        ("\nserver = 3", "line 2: server is a string, and not of type integer"),
        ("server = \"https://a b\"", "line 1: \"https://a b\" is not a URL"),
        ("[host.\"ftp://m.example\"]", "line 1: \"ftp://m.example\" is not the URL of a host"),
        ("\n\n[host.\"https://m\"]\ncapabilities = [\"pull\",\n \"fly\"]", "line 5: a capability is"),
        ("capabilities = \"pull\"", "line 1: capabilities is an array, and not of type string"),
        ("ca = [1]", "line 1: ca is a string"),
        ("ca = \"\"", "line 1: ca names no file"),
        ("client = [[\"a\"]]", "line 1: a pair in client is"),
        ("client = [[\"a\", \"b\", \"c\"]]", "line 1: a pair in client is"),
        ("skip_verify = \"yes\"", "line 1: skip_verify is true or false"),
        ("override_path = 1", "line 1: override_path is true or false"),
        ("dial_timeout = \"soon\"", "line 1: dial_timeout is a time"),
        ("dial_timeout = \"-1s\"", "line 1: dial_timeout is a time"),
        ("proxy = \"socks5://p.example\"", "line 1: proxy is the URL of an HTTP"),
        ("header = 1", "line 1: header is a table"),
        ("[header]\n\"a b\" = \"x\"", "line 2: this is not the name of a header"),
        ("[header]\na = \"hunter2\\n\"", "line 2: this is not valid in a header"),
        ("host = 1", "line 1: host is a table"),
        ("[host]\nm = 1", "line 2: m is a table"),
        ("[a\n[b]", "line 1: "),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.starts_with(want), "{text:?}: {error}");
        assert!(!error.contains("hunter2"));
    }
}

#[test]
fn garbage_is_an_error_and_no_panic() {
    let deep = "a = ".to_owned() + &"[".repeat(100_000);
    for text in [&deep, "\u{0}", "[[host]]", "[host.\"\"]\n", "= =", "\"\\uD800\" = 1"] {
        assert!(read(text).is_err(), "{:?}", &text[..text.len().min(20)]);
    }
}
