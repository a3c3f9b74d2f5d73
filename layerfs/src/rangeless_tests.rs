//! Registries that ignore ranges: a blob is read once, however many ranges of it are wanted. With the real client.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use jaunt_distribution::{Client, ClientConfig};
use jaunt_formats::Digest;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::source::RegistrySource;
use crate::testing::Fixture;

/// The blobs that were asked for.
type Asked = Arc<Mutex<Vec<Digest>>>;

/// A registry that answers whatever is asked of a blob with all of it.
async fn registry(blobs: Vec<(Digest, bytes::Bytes)>) -> (MockServer, Asked, RegistrySource) {
    let (server, asked) = (MockServer::start().await, Asked::default());
    let noted = asked.clone();
    let answer = move |request: &Request| {
        let wanted =
            |(digest, _): &&(Digest, bytes::Bytes)| request.url.path().ends_with(&digest.to_string());
        let Some((digest, blob)) = blobs.iter().find(wanted) else { return ResponseTemplate::new(404) };
        noted.lock().unwrap().push(*digest);
        ResponseTemplate::new(200).set_body_bytes(blob.to_vec())
    };
    Mock::given(method("GET")).respond_with(answer).mount(&server).await;
    let config = ClientConfig { auth_files: Vec::new(), ..ClientConfig::default() };
    let repository = format!("{}/a/b", server.address()).parse().unwrap();
    let source = RegistrySource::new(Client::new(config).unwrap(), repository);
    (server, asked, source)
}

/// Reads every span, many at once and then one after the other; what was asked of the registry.
async fn read_all(fixture: &Fixture, blobs: Vec<(Digest, bytes::Bytes)>) -> Vec<Digest> {
    let (_server, asked, source) = registry(blobs).await;
    let layer = fixture.open(Arc::new(source));
    let spans = fixture.layer.spans.len();
    let reads = (spans / 2..spans).map(|at| layer.read(fixture.tar_range(at..at + 1)));
    for (read, at) in join_all(reads).await.into_iter().zip(spans / 2..) {
        assert!(read.unwrap() == fixture.bytes(fixture.tar_range(at..at + 1)));
    }
    for at in (0..spans).rev() {
        assert!(
            layer.read(fixture.tar_range(at..at + 1)).await.unwrap()
                == fixture.bytes(fixture.tar_range(at..at + 1))
        );
    }
    let asked = asked.lock().unwrap();
    asked.clone()
}

#[tokio::test]
async fn the_original_is_streamed_once_for_all_who_want_parts_of_the_converted_blob() {
    let (fixture, original) = Fixture::new(60).with_original();
    let (converted, gzip) = (fixture.layer.converted.digest, fixture.layer.original.digest);
    let asked = read_all(&fixture, vec![(converted, fixture.blob.clone()), (gzip, original)]).await;
    assert_eq!(asked.iter().filter(|blob| **blob == gzip).count(), 1);
    // One request, or several at once, twice each: an answer that is final is asked for once more.
    assert!(asked.len() <= 1 + 2 * 4, "{} requests", asked.len());
}

#[tokio::test]
async fn a_blob_that_is_its_own_original_is_streamed_once_itself() {
    let fixture = Fixture::new(60);
    let asked = read_all(&fixture, vec![(fixture.layer.converted.digest, fixture.blob.clone())]).await;
    assert!(asked.len() <= 1 + 2 * 4, "{} requests", asked.len());
}
