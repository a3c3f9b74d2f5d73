//! Logins: in which files they are found, under which names, and from which helpers.
//!
//! Helpers are looked for in `PATH`, so a client with one is a process of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use jaunt_distribution::{Client, ClientConfig};
use jaunt_formats::Digest;
use wiremock::matchers::{basic_auth, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{blob_path, client_with_login, config, repository};

const REGISTRY: &str = "JAUNT_TEST_LOGIN_REGISTRY";
const FILES: &str = "JAUNT_TEST_LOGIN_FILES";

/// A registry that wants `user` and `hunter2`.
async fn guarded(asks: &str) -> MockServer {
    let server = MockServer::start().await;
    let good = ResponseTemplate::new(200).set_body_string("x");
    let known = Mock::given(method("GET")).and(basic_auth("user", "hunter2"));
    known.respond_with(good.clone()).with_priority(1).mount(&server).await;
    let bearer = Mock::given(method("GET")).and(header("authorization", "Bearer hunter2"));
    bearer.respond_with(good).with_priority(1).mount(&server).await;
    let asks = ResponseTemplate::new(401).insert_header("www-authenticate", asks);
    Mock::given(path(blob_path(&Digest::of(b"x")))).respond_with(asks).with_priority(9).mount(&server).await;
    server
}

async fn reads(client: &Client, server: &MockServer) -> bool {
    client.blob(&repository(server), &Digest::of(b"x"), 9).await.is_ok()
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is_and_to_the_registry_alone() {
    let server = guarded(r#"Bearer realm="http://127.0.0.1:1/token""#).await;
    let login = format!(r#"{{"auths":{{"{}":{{"registrytoken":"hunter2"}}}}}}"#, server.address());
    let (client, _directory) = client_with_login(&login);
    assert!(reads(&client, &server).await);
    let server = guarded("Basic realm=x").await;
    let login = format!(r#"{{"auths":{{"{}":{{"registrytoken":"hunter2"}}}}}}"#, server.address());
    let (client, _directory) = client_with_login(&login);
    let error = client.blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap_err();
    assert!(error.to_string().contains("wants a password, but the configured login for"), "{error}");
}

#[tokio::test]
async fn a_login_for_the_repository_comes_before_one_for_the_registry() {
    let server = guarded("Basic realm=x").await;
    let entry = |name: &str, auth: &str| format!(r#""{}{name}":{{"auth":"{auth}"}}"#, server.address());
    // user:hunter2 and user:hunter3.
    let (good, bad) = ("dXNlcjpodW50ZXIy", "dXNlcjpodW50ZXIz");
    for (entries, want) in [
        ([entry("", bad), entry("/a", good)], true),
        ([entry("/a", bad), entry("/a/b", good)], true),
        ([entry("/a/b", bad), entry("", good)], false),
        ([entry("/a/b/c", bad), entry("", good)], true),
    ] {
        let (client, _directory) = client_with_login(&format!(r#"{{"auths":{{{}}}}}"#, entries.join(",")));
        assert_eq!(reads(&client, &server).await, want, "{entries:?}");
    }
}

#[tokio::test]
async fn the_first_file_with_a_login_wins() {
    let server = guarded("Basic realm=x").await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text.replace("R", &server.address().to_string())).unwrap();
        path
    };
    let good = file("good", r#"{"auths":{"R":{"auth":"dXNlcjpodW50ZXIy"}}}"#);
    let bad = file("bad", r#"{"auths":{"R":{"auth":"dXNlcjpodW50ZXIz"}}}"#);
    let other = file("other", r#"{"auths":{"other.example":{"auth":"dXNlcjpodW50ZXIz"}}}"#);
    let helper = file("helper", r#"{"credsStore":"jaunt-absent"}"#);
    let broken = file("broken", "{");
    let absent = directory.path().join("absent");
    for (files, want) in [
        (vec![&absent, &other, &good, &bad], true),
        (vec![&bad, &good], false),
        // What cannot be used hides nothing.
        (vec![&helper, &good], true),
        (vec![&broken, &good], true),
        (vec![], false),
    ] {
        let auth_files: Vec<PathBuf> = files.iter().map(|&file| file.clone()).collect();
        let client = Client::new(ClientConfig { auth_files, ..config() }).unwrap();
        assert_eq!(reads(&client, &server).await, want, "{files:?}");
    }
    for (file, want) in
        [(&helper, "could not be run"), (&broken, "line 1, column 1 is not what it should be")]
    {
        let client = Client::new(ClientConfig { auth_files: vec![file.clone()], ..config() }).unwrap();
        let error = client.blob(&repository(&server), &Digest::of(b"x"), 9).await.unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[tokio::test]
#[ignore = "run by helpers_are_asked, with a helper in its PATH"]
async fn with_a_helper() {
    let (Ok(registry), Ok(files)) = (std::env::var(REGISTRY), std::env::var(FILES)) else { return };
    let auth_files = vec![PathBuf::from(files)];
    let client = Client::new(ClientConfig { auth_files, ..config() }).unwrap();
    match client.blob(&crate::support::repository_at(&registry), &Digest::of(b"x"), 9).await {
        Ok(bytes) => println!("read {bytes:?}"),
        Err(error) => println!("failed: {error}"),
    }
}

fn read_with_helper(directory: &Path, server: &MockServer, login: &str, script: &str) -> String {
    let helper = directory.join("docker-credential-jaunttest");
    std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.join("config.json");
    std::fs::write(&file, login.replace('R', &server.address().to_string())).unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "logins::with_a_helper", "--ignored", "--nocapture"])
        .env_remove("HOME")
        .env("PATH", path)
        .env(REGISTRY, server.address().to_string())
        .env(FILES, file)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_are_asked() {
    let server = guarded("Basic realm=x").await;
    let directory = tempfile::tempdir().unwrap();
    let run = |login: &str, script: &str| read_with_helper(directory.path(), &server, login, script);
    let (store, helpers) = (r#"{"credsStore":"jaunttest"}"#, r#"{"credHelpers":{"R":"jaunttest"}}"#);
    // It is asked with "get", and for the registry's name.
    let address = server.address();
    let knows = format!(
        r#"read server; [ "$1" = get ] && [ "$server" = {address} ] && echo '{{"Username":"user","Secret":"hunter2"}}'"#
    );
    assert!(run(store, &knows).contains("read b\"x\""));
    assert!(run(helpers, &knows).contains("read b\"x\""));
    // Without a variable it still has the home directory of its user.
    let home = format!(r#"[ "$HOME" = "$(getent passwd "$(id -u)" | cut -d: -f6)" ] || exit 1; {knows}"#);
    assert!(run(store, &home).contains("read b\"x\""));
    let noted = r#"{"auths":{"R":{}},"credsStore":"jaunttest"}"#;
    assert!(run(noted, &knows).contains("read b\"x\""));
    for (script, want) in [
        (
            "echo credentials not found in native keychain; exit 1",
            "access denied (401: no login for it is configured)",
        ),
        ("echo hunter2 >&2; echo hunter2; exit 1", "names a credential helper for"),
        ("exec yes hunter2", "that failed"),
        // One that reads nothing.
        ("exec <&-; echo '{}'", "answered in no known form"),
    ] {
        let output = run(store, script);
        assert!(output.contains(want) && !output.contains("hunter2"), "{script}: {output}");
    }
}
