//! Mirrors: asked in order, and left when they fail.

mod secrets;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use jaunt_distribution::{
    ApiRoot, BlobStream, Capabilities, Client, ClientConfig, Error, Host, HostSettings, RegistryHosts,
    Repository,
};
use jaunt_formats::media_type::OCI_INDEX;
use jaunt_formats::{Digest, media_type};
use wiremock::matchers::{method, path, query_param, query_param_is_missing};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::support::{RawServer, blob_path, config, content, read_head, repository, send};

const PULL_ONLY: Capabilities = Capabilities { pull: true, resolve: false, referrers: false, push: false };

fn host(url: &str) -> Host {
    Host { api: Some(ApiRoot::parse(url, false).unwrap()), ..Host::default() }
}

fn settings(registry: &MockServer, mirrors: Vec<Host>) -> HostSettings {
    let hosts = RegistryHosts { mirrors, server: Host::default() };
    HostSettings { registries: [(registry.address().to_string(), hosts)].into(), ..HostSettings::default() }
}

fn client(registry: &MockServer, mirrors: Vec<Host>) -> Client {
    Client::new(ClientConfig { hosts: settings(registry, mirrors), ..config() }).unwrap()
}

async fn serving(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(answer).mount(&server).await;
    server
}

fn good(bytes: &[u8]) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_bytes(bytes)
}

async fn requests(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}

async fn counts(servers: &[&MockServer]) -> Vec<usize> {
    let mut counts = Vec::new();
    for server in servers {
        counts.push(requests(server).await.len());
    }
    counts
}

#[tokio::test]
async fn the_first_mirror_that_has_it_answers_and_is_told_whose_it_is() {
    let (empty, full, registry) =
        (MockServer::start().await, MockServer::start().await, serving(good(b"x")).await);
    let named = Mock::given(path(blob_path(&Digest::of(b"x"))))
        .and(query_param("ns", registry.address().to_string()));
    named.respond_with(good(b"x")).mount(&full).await;
    let client = client(&registry, vec![host(&empty.uri()), host(&full.uri())]);
    let (repository, digest) = (repository(&registry), Digest::of(b"x"));
    assert_eq!(client.blob(&repository, &digest, 9).await.unwrap(), "x");
    assert_eq!(counts(&[&empty, &full, &registry]).await, [1, 1, 0]);
    // Where it was found, it is asked for first.
    assert_eq!(client.blob(&repository, &digest, 9).await.unwrap(), "x");
    assert_eq!(counts(&[&empty, &full, &registry]).await, [1, 2, 0]);
}

#[tokio::test]
async fn the_registry_is_asked_last_and_by_its_own_name() {
    let (mirror, registry) = (MockServer::start().await, MockServer::start().await);
    let digest = Digest::of(b"x");
    let unnamed = Mock::given(path(blob_path(&digest))).and(query_param_is_missing("ns"));
    unnamed.respond_with(good(b"x")).mount(&registry).await;
    let client = client(&registry, vec![host(&mirror.uri())]);
    for _ in 0..3 {
        assert_eq!(client.blob(&repository(&registry), &digest, 9).await.unwrap(), "x");
    }
    assert_eq!(counts(&[&mirror, &registry]).await, [1, 3]);
    let error = client.blob(&repository(&registry), &Digest::of(b"y"), 9).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn a_mirror_in_trouble_is_left_and_given_rest() {
    for status in [500, 503, 429] {
        let mirror = serving(ResponseTemplate::new(status).insert_header("retry-after", "30")).await;
        let registry = serving(good(b"x")).await;
        let client = client(&registry, vec![host(&mirror.uri())]);
        for _ in 0..3 {
            assert_eq!(client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap(), "x");
        }
        assert_eq!(counts(&[&mirror, &registry]).await, [1, 3], "{status}");
    }
    // One that refuses connections, and one that is silent.
    let registry = serving(good(b"x")).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let mirrors = vec![host(&format!("http://{closed}")), host(&format!("http://{}", silent.address))];
    let hosts = settings(&registry, mirrors);
    let quick = ClientConfig { hosts, read_timeout: Duration::from_millis(300), ..config() };
    let client = Client::new(quick).unwrap();
    assert_eq!(client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap(), "x");
}

#[tokio::test]
async fn a_mirror_at_rest_is_better_than_no_answer() {
    let mirror = MockServer::start().await;
    let registry = serving(good(b"x")).await;
    let trouble = Mock::given(method("GET")).respond_with(ResponseTemplate::new(500));
    trouble.up_to_n_times(1).mount(&mirror).await;
    Mock::given(method("GET")).respond_with(good(b"y")).mount(&mirror).await;
    let client = client(&registry, vec![host(&mirror.uri())]);
    client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap();
    // Only the mirror has this one.
    assert_eq!(client.blob(&repository(&registry), &Digest::of(b"y"), 9).await.unwrap(), "y");
    assert_eq!(counts(&[&mirror]).await, [2]);
}

#[tokio::test]
async fn a_silent_mirror_leaves_the_registry_its_share_of_the_time() {
    let silent = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let registry = serving(good(b"x")).await;
    let client = client(&registry, vec![host(&format!("http://{}", silent.address))]);
    let client = client.within(Duration::from_secs(4));
    let started = Instant::now();
    assert_eq!(client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap(), "x");
    assert!(started.elapsed() >= Duration::from_secs(2), "the mirror has its share, too");
}

#[tokio::test]
async fn bytes_that_are_not_what_was_named_are_asked_for_elsewhere() {
    let manifest = br#"{"schemaVersion":2}"#;
    let (liar, registry) = (serving(good(b"lies")).await, MockServer::start().await);
    let blob = Mock::given(path(blob_path(&Digest::of(b"blob"))));
    blob.respond_with(good(b"blob")).mount(&registry).await;
    let digest = Digest::of(manifest);
    let found = Mock::given(path(format!("/v2/a/b/manifests/{digest}")));
    found.respond_with(good(manifest)).mount(&registry).await;
    let (client, repository) = (client(&registry, vec![host(&liar.uri())]), repository(&registry));
    assert_eq!(client.blob(&repository, &Digest::of(b"blob"), 9).await.unwrap(), "blob");
    let read = client.manifest(&repository, &digest.to_string(), &media_type::IMAGE_MANIFESTS).await.unwrap();
    assert_eq!(read.digest, digest);
    assert_eq!(counts(&[&liar]).await, [2]);
    // The liar is not asked for that blob again.
    assert_eq!(client.blob(&repository, &Digest::of(b"blob"), 9).await.unwrap(), "blob");
    assert_eq!(counts(&[&liar]).await, [2]);
}

#[tokio::test]
async fn whoever_verifies_ranges_can_do_without_mirrors() {
    let (liar, registry) = (serving(good(b"lies")).await, serving(good(b"blob")).await);
    let (client, repository) = (client(&registry, vec![host(&liar.uri())]), repository(&registry));
    let range = client.blob_range(&repository, &Digest::of(b"blob"), 0..4).await.unwrap();
    assert_eq!(range, "lies");
    let range = client.without_mirrors().blob_range(&repository, &Digest::of(b"blob"), 0..4).await.unwrap();
    assert_eq!(range, "blob");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_at_the_next_host() {
    let bytes = content(3000);
    let mirror = RawServer::start(|_, mut stream| async move {
        read_head(&mut stream).await;
        send(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 3000\r\n\r\n", &content(3000)[..1000]).await;
    })
    .await;
    let registry = MockServer::start().await;
    let rest = Mock::given(wiremock::matchers::header("range", "bytes=1000-2999"));
    let part = ResponseTemplate::new(206).insert_header("content-range", "bytes 1000-2999/3000");
    rest.respond_with(part.set_body_bytes(&bytes[1000..])).expect(1).mount(&registry).await;
    let client = client(&registry, vec![host(&format!("http://{}", mirror.address))]);
    let stream = client.blob_stream(&repository(&registry), &Digest::of(&bytes)).await.unwrap();
    assert_eq!(stream.content_length(), Some(3000));
    assert_eq!(stream.try_collect::<Vec<_>>().await.unwrap().concat(), bytes);
}

#[tokio::test]
async fn a_mirror_is_asked_only_for_what_it_may_answer() {
    let manifest = br#"{"schemaVersion":2}"#;
    let (mirror, registry) = (serving(good(manifest)).await, serving(good(manifest)).await);
    let client = client(&registry, vec![Host { capabilities: PULL_ONLY, ..host(&mirror.uri()) }]);
    let repository = repository(&registry);
    client.manifest(&repository, "t", &[]).await.unwrap();
    client.tags(&repository).await.unwrap();
    assert_eq!(counts(&[&mirror, &registry]).await, [0, 2]);
    client.manifest(&repository, &Digest::of(manifest).to_string(), &[]).await.unwrap();
    assert_eq!(counts(&[&mirror, &registry]).await, [1, 2]);
    client.referrers(&repository, &Digest::of(b"s"), None).await.unwrap();
    assert_eq!(counts(&[&mirror]).await, [1]);
}

#[tokio::test]
async fn a_registry_no_host_may_be_asked_for_is_an_error() {
    let registry = MockServer::start().await;
    let server = Host { capabilities: PULL_ONLY, ..Host::default() };
    let hosts = RegistryHosts { mirrors: Vec::new(), server };
    let registries = [(registry.address().to_string(), hosts)].into();
    let hosts = HostSettings { registries, ..HostSettings::default() };
    let client = Client::new(ClientConfig { hosts, ..config() }).unwrap();
    let error = client.manifest(&repository(&registry), "t", &[]).await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("manifest t: by its settings no host of the registry may be asked for tags")
    );
    let pushed = client.push_blob(&repository(&registry), &Digest::of(b"x"), Bytes::from_static(b"x")).await;
    assert!(matches!(pushed.unwrap_err(), Error::Incapable { .. }));
    assert!(requests(&registry).await.is_empty());
}

#[tokio::test]
async fn a_mirror_that_lists_no_referrers_is_not_the_last_word() {
    let subject = Digest::of(b"subject");
    let listing = |entries: &str| {
        let body = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#);
        ResponseTemplate::new(200).set_body_raw(body, OCI_INDEX)
    };
    let one =
        format!(r#"{{"mediaType":"x/y","digest":"{}","size":1,"artifactType":"x/a"}}"#, Digest::of(b"1"));
    for mirror in [serving(listing("")).await, serving(ResponseTemplate::new(404)).await] {
        let registry = serving(listing(&one)).await;
        let client = client(&registry, vec![host(&mirror.uri())]);
        assert_eq!(client.referrers(&repository(&registry), &subject, None).await.unwrap().len(), 1);
    }
    let (mirror, registry) = (serving(listing(&one)).await, serving(listing("")).await);
    let client = client(&registry, vec![host(&mirror.uri())]);
    assert_eq!(client.referrers(&repository(&registry), &subject, None).await.unwrap().len(), 1);
    assert_eq!(counts(&[&registry]).await, [0]);
    assert!(
        client.without_mirrors().referrers(&repository(&registry), &subject, None).await.unwrap().is_empty()
    );
}

#[tokio::test]
async fn what_is_written_goes_to_the_registry_itself() {
    let (mirror, registry) = (MockServer::start().await, MockServer::start().await);
    let session = ResponseTemplate::new(202).insert_header("location", "/s");
    Mock::given(method("POST")).respond_with(session).mount(&registry).await;
    Mock::given(method("PATCH"))
        .respond_with(ResponseTemplate::new(202).insert_header("location", "/s"))
        .mount(&registry)
        .await;
    Mock::given(method("PUT")).respond_with(ResponseTemplate::new(201)).mount(&registry).await;
    Mock::given(method("DELETE")).respond_with(ResponseTemplate::new(202)).mount(&registry).await;
    let (client, to) = (client(&registry, vec![host(&mirror.uri())]), repository(&registry));
    let (bytes, digest) = (Bytes::from_static(b"x"), Digest::of(b"x"));
    client.push_blob(&to, &digest, bytes.clone()).await.unwrap();
    client.push_manifest(&to, "t", "x/y", bytes.clone()).await.unwrap();
    let mut upload = client.start_upload(&to).await.unwrap();
    upload.write(bytes).await.unwrap();
    upload.finish(&digest, 1).await.unwrap();
    client.delete_manifest(&to, &digest).await.unwrap();
    assert!(client.delete_tag(&to, "t").await.unwrap());
    let from: Repository = format!("{}/c", registry.address()).parse().unwrap();
    client.mount_blob(&to, &from, &digest).await.unwrap();
    assert!(requests(&mirror).await.is_empty());
    assert!(
        requests(&registry).await.iter().all(|request| !request
            .url
            .query()
            .unwrap_or_default()
            .contains("ns="))
    );
}

#[tokio::test]
async fn the_registrys_own_error_is_the_one_reported() {
    let refusing = ResponseTemplate::new(403);
    let (mirror, registry) = (serving(ResponseTemplate::new(404)).await, serving(refusing).await);
    let client = client(&registry, vec![host(&mirror.uri())]);
    let error = client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap_err();
    assert!(matches!(&error, Error::Unauthorized { status, .. } if status.as_u16() == 403), "{error}");
    let error = client.manifest(&repository(&registry), "t", &[]).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn a_server_of_another_name_is_told_whose_content_is_meant() {
    let (server, registry) = (MockServer::start().await, MockServer::start().await);
    let named = Mock::given(query_param("ns", registry.address().to_string()));
    named.respond_with(good(b"x")).mount(&server).await;
    let hosts = RegistryHosts { mirrors: Vec::new(), server: host(&server.uri()) };
    let hosts = HostSettings {
        registries: [(registry.address().to_string(), hosts)].into(),
        ..HostSettings::default()
    };
    let client = Client::new(ClientConfig { hosts, ..config() }).unwrap();
    assert_eq!(client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap(), "x");
    assert_eq!(counts(&[&server, &registry]).await, [1, 0]);
}

#[tokio::test]
async fn settings_come_from_directories_and_faults_in_them_are_one_registrys() {
    let (mirror, registry) = (serving(good(b"x")).await, MockServer::start().await);
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(registry.address().to_string());
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), format!("[host.\"{}\"]\n", mirror.uri())).unwrap();
    let broken = directory.path().join("broken.example");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("hosts.toml"), "\nserver = 1\n").unwrap();
    let hosts = HostSettings { directories: vec![directory.path().to_owned()], ..HostSettings::default() };
    let client = Client::new(ClientConfig { hosts, ..config() }).unwrap();
    assert_eq!(client.blob(&repository(&registry), &Digest::of(b"x"), 9).await.unwrap(), "x");
    let repository = "broken.example/a".parse().unwrap();
    let error = client.blob(&repository, &Digest::of(b"x"), 9).await.unwrap_err();
    let want = format!(
        "registry broken.example: {}/hosts.toml: line 2: server is a string, and not of type integer",
        broken.display()
    );
    assert_eq!(error.to_string(), want);
}

/// A host that begins every answer so, and sends no more; and how often it was asked.
async fn silent_after(head: String) -> (RawServer, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let count = asked.clone();
    let server = RawServer::start(move |_, mut stream| {
        let (count, head) = (count.clone(), head.clone());
        async move {
            read_head(&mut stream).await;
            count.fetch_add(1, Ordering::Relaxed);
            send(&mut stream, &head, b"").await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    })
    .await;
    (server, asked)
}

/// Waits for bytes in vain until somebody has been asked for them, and gives up.
async fn give_up(mut waiting: BlobStream, asked: &AtomicUsize) {
    while asked.load(Ordering::Relaxed) == 0 {
        let pause = tokio::time::timeout(Duration::from_millis(20), waiting.try_next()).await;
        assert!(pause.is_err());
    }
}

/// Who gives up waiting before the client would says so.
#[tokio::test]
async fn a_mirror_that_keeps_a_reader_waiting_is_asked_after_the_registry() {
    // One says nothing at all, one begins to answer.
    let begun = "HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\ncontent-range: bytes 0-2/3\r\n\r\nx";
    for head in ["", begun] {
        let (silent, asked) = silent_after(head.to_owned()).await;
        let answer = ResponseTemplate::new(206).insert_header("content-range", "bytes 0-2/3");
        let (other, registry) = (MockServer::start().await, serving(answer.set_body_bytes("xyz")).await);
        let mirrors = vec![host(&format!("http://{}", silent.address)), host(&other.uri())];
        let client = client(&registry, mirrors);
        let (repository, digest) = (repository(&registry), Digest::of(b"xyz"));
        let read = || client.blob_range_stream(&repository, &digest, 0..3).try_collect::<Vec<_>>();
        let mut waiting = client.blob_range_stream(&repository, &digest, 0..3);
        if !head.is_empty() {
            assert_eq!(waiting.try_next().await.unwrap().unwrap(), "x");
        }
        give_up(waiting, &asked).await;
        // He may say so twice, and it is one host's fault.
        (0..2).for_each(|_| client.kept_silent(&repository, &digest, 0));
        for _ in 0..2 {
            assert_eq!(read().await.unwrap().concat(), b"xyz");
        }
        assert_eq!((asked.load(Ordering::Relaxed), counts(&[&other, &registry]).await), (1, vec![1, 2]));
    }
}

#[tokio::test]
async fn where_the_registry_keeps_silent_mirrors_are_asked_again_and_one_that_has_no_blob_is_not_blamed() {
    let digests = [Digest::of(b"xyz"), Digest::of(b"abc")];
    let answer = || ResponseTemplate::new(206).insert_header("content-range", "bytes 0-2/3");
    let mirror = MockServer::start().await;
    let abc = Mock::given(path(blob_path(&digests[1])));
    abc.respond_with(answer().set_body_bytes("abc")).mount(&mirror).await;
    let (silent, asked) = silent_after(String::new()).await;
    let hosts = RegistryHosts { mirrors: vec![host(&mirror.uri())], server: Host::default() };
    let hosts =
        HostSettings { registries: [(silent.address.clone(), hosts)].into(), ..HostSettings::default() };
    let client = Client::new(ClientConfig { hosts, ..config() }).unwrap();
    let repository: Repository = format!("{}/a/b", silent.address).parse().unwrap();
    // The mirror says at once that it does not have this one; whoever waits, waits for the registry.
    give_up(client.blob_range_stream(&repository, &digests[0], 0..3), &asked).await;
    client.kept_silent(&repository, &digests[0], 0);
    let abc = client.blob_range_stream(&repository, &digests[1], 0..3).try_collect::<Vec<_>>();
    assert_eq!(abc.await.unwrap().concat(), b"abc");
    assert_eq!((asked.load(Ordering::Relaxed), counts(&[&mirror]).await), (1, vec![2]));
}
