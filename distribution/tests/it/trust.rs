//! Trust by settings: authorities, client certificates, none at all, and garbage.

use bytes::Bytes;
use jaunt_distribution::{
    ApiRoot, Client, ClientCertificate, ClientConfig, Error, Host, HostSettings, RegistryHosts, TlsSettings,
};
use jaunt_formats::Digest;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::certificates::{Authority, Issued, certs_dir};
use crate::support::{Registry, config, repository_at};

const HOST: &str = "127.0.0.1";

fn client(hosts: HostSettings) -> Client {
    Client::new(ClientConfig { hosts, ..config() }).unwrap()
}

fn directory(path: &std::path::Path) -> HostSettings {
    HostSettings { directories: vec![path.to_owned()], ..HostSettings::default() }
}

async fn registry(authority: &Authority, clients: Option<&Authority>) -> Option<Registry> {
    let Issued { certificate, key } = authority.server(HOST);
    let clients = clients.map(|clients| clients.certificate().display().to_string());
    Registry::start_tls_for(
        &certificate.display().to_string(),
        &key.display().to_string(),
        clients.as_deref(),
    )
    .await
}

/// Pushes a blob and reads it back.
async fn try_it(client: &Client, address: &str) -> Result<(), Error> {
    let (repository, digest) = (repository_at(address), Digest::of(b"x"));
    client.push_blob(&repository, &digest, Bytes::from_static(b"x")).await?;
    let mut upload = client.start_upload(&repository).await?;
    upload.write(Bytes::from_static(b"y")).await?;
    upload.finish(&Digest::of(b"y"), 1).await?;
    assert_eq!(client.blob(&repository, &digest, 1).await?, "x");
    Ok(())
}

#[tokio::test]
async fn a_private_authority_is_trusted_by_its_directory() {
    let Some(authority) = Authority::new() else { return };
    let Some(registry) = registry(&authority, None).await else { return };
    // With settings of its own, loopback speaks TLS.
    let trusting = certs_dir(&registry.address, &[("ca.crt", &authority.certificate())]);
    try_it(&client(directory(trusting.path())), &registry.address).await.unwrap();
    let other = Authority::new().unwrap();
    let mistaken = certs_dir(&registry.address, &[("ca.crt", &other.certificate())]);
    let error = try_it(&client(directory(mistaken.path())), &registry.address).await.unwrap_err();
    assert!(error.to_string().contains("cannot connect: invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn a_registry_that_wants_a_client_certificate_gets_it() {
    let (Some(authority), Some(clients)) = (Authority::new(), Authority::new()) else { return };
    let Some(registry) = registry(&authority, Some(&clients)).await else { return };
    let (ca, Issued { certificate, key }) = (authority.certificate(), clients.client());
    let stranger = certs_dir(&registry.address, &[("ca.crt", &ca)]);
    let error = try_it(&client(directory(stranger.path())), &registry.address).await.unwrap_err();
    // TLS 1.3 refuses after the handshake: the alert or the end of the connection is seen first.
    assert!(matches!(error, Error::Interrupted { .. } | Error::Unreachable { .. }), "{error}");
    let known = certs_dir(&registry.address, &[("ca.crt", &ca), ("me.cert", &certificate), ("me.key", &key)]);
    try_it(&client(directory(known.path())), &registry.address).await.unwrap();
    // Given for all registries, of which this one is known to speak TLS.
    let tls = TlsSettings {
        authorities: vec![ca],
        client: vec![ClientCertificate { certificate, key: Some(key) }],
        skip_verify: false,
    };
    let api = Some(ApiRoot::parse(&format!("https://{}", registry.address), false).unwrap());
    let server = RegistryHosts { mirrors: Vec::new(), server: Host { api, ..Host::default() } };
    let registries = [(registry.address.clone(), server)].into();
    let hosts = HostSettings { tls, registries, ..HostSettings::default() };
    try_it(&client(hosts), &registry.address).await.unwrap();
}

#[tokio::test]
async fn verification_can_be_skipped() {
    let Some(authority) = Authority::new() else { return };
    let Some(registry) = registry(&authority, None).await else { return };
    let toml = tempfile::tempdir().unwrap();
    let own = toml.path().join(&registry.address);
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), "skip_verify = true\n").unwrap();
    try_it(&client(directory(toml.path())), &registry.address).await.unwrap();
}

#[tokio::test]
async fn storage_behind_a_redirect_is_trusted_as_its_registry_is() {
    let Some(authority) = Authority::new() else { return };
    let Some(storage) = registry(&authority, None).await else { return };
    let trusting = certs_dir(&storage.address, &[("ca.crt", &authority.certificate())]);
    let (repository, digest) = (repository_at(&storage.address), Digest::of(b"x"));
    let pusher = client(directory(trusting.path()));
    pusher.push_blob(&repository, &digest, Bytes::from_static(b"x")).await.unwrap();
    // A registry on plain HTTP leads there; it has the authority, the storage has no settings at all.
    let registry = MockServer::start().await;
    let to = format!("https://{}/v2/a/b/blobs/{digest}", storage.address);
    let away = ResponseTemplate::new(307).insert_header("location", to.as_str());
    Mock::given(method("GET")).respond_with(away).mount(&registry).await;
    let repository = crate::support::repository(&registry);
    let hosts = |tls: TlsSettings| {
        let api = Some(ApiRoot::parse(&registry.uri(), false).unwrap());
        let hosts = RegistryHosts { mirrors: Vec::new(), server: Host { tls, api, ..Host::default() } };
        HostSettings {
            registries: [(registry.address().to_string(), hosts)].into(),
            ..HostSettings::default()
        }
    };
    let with_authority = TlsSettings { authorities: vec![authority.certificate()], ..TlsSettings::default() };
    assert_eq!(client(hosts(with_authority)).blob(&repository, &digest, 9).await.unwrap(), "x");
    // That the registry itself is believed blindly says nothing of the storage.
    let blindly = TlsSettings { skip_verify: true, ..TlsSettings::default() };
    let error = client(hosts(blindly)).blob(&repository, &digest, 9).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn garbage_is_named_with_its_file_and_line() {
    let Some(authority) = Authority::new() else { return };
    let Issued { certificate, key } = authority.client();
    let strangers = Authority::new().unwrap();
    let other = strangers.client().key;
    let directory_of = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = directory_of.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let good = std::fs::read(authority.certificate()).unwrap();
    let half = [
        &b"# two authorities\n"[..],
        &good,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ];
    let line = half[..2].concat().split(|&byte| byte == b'\n').count();
    let cut = &good[..good.len() / 2];
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let both = [std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap()].concat();
    let pair = |certificate: &std::path::PathBuf, key: Option<std::path::PathBuf>| TlsSettings {
        client: vec![ClientCertificate { certificate: certificate.clone(), key }],
        ..TlsSettings::default()
    };
    let ca = |path| TlsSettings { authorities: vec![path], ..TlsSettings::default() };
    for (tls, want) in [
        (ca(directory_of.path().join("absent.crt")), "absent.crt: No such file"),
        (ca(file("none.crt", b"hello")), "none.crt: line 1: no certificate in it"),
        (
            ca(file("half.crt", &half.concat())),
            &*format!("half.crt: line {line}: invalid peer certificate: BadEncoding"),
        ),
        (ca(file("cut.crt", cut)), "cut.crt: line 1: the certificate is not valid PEM"),
        (ca(directory_of.path().to_owned()), "is not a file"),
        (pair(&certificate, Some(other)), "is another certificate's"),
        (pair(&certificate, None), "client.pem: line 1: no private key in it that is not encrypted"),
        (
            pair(&certificate, Some(file("e.key", encrypted))),
            "e.key: line 1: no private key in it that is not",
        ),
        (pair(&key, Some(key.clone())), "client.key: line 1: no certificate in it"),
    ] {
        let hosts = HostSettings { tls, ..HostSettings::default() };
        let error = try_it(&client(hosts), "127.0.0.1:1").await.unwrap_err();
        assert!(matches!(error, Error::Hosts { .. }), "{error}");
        assert!(error.to_string().contains(want), "{error}, and not {want}");
        assert!(!error.is_transient() && error.to_string().starts_with("registry 127.0.0.1:1: "), "{error}");
    }
    // Certificate and key in one file are fine: what fails is the connection.
    let hosts = HostSettings { tls: pair(&file("both.pem", &both), None), ..HostSettings::default() };
    assert!(matches!(try_it(&client(hosts), "127.0.0.1:1").await, Err(Error::Unreachable { .. })));
}
