//! Tags: listed page after page, and deleted where the registry can.

use jaunt_distribution::Error;
use jaunt_formats::Digest;
use wiremock::matchers::{method, path, query_param, query_param_is_missing};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{client, repository};

const LIST: &str = "/v2/a/b/tags/list";

fn listing(body: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(body.as_bytes(), "application/json")
}

#[tokio::test]
async fn every_page_is_read_and_what_is_no_tag_left_out() {
    let server = MockServer::start().await;
    let first = Mock::given(path(LIST)).and(query_param("n", "1000")).and(query_param_is_missing("last"));
    let link = format!(r#"<{LIST}?n=1000&last=b>; rel="next""#);
    let page = listing(r#"{"name":"a/b","tags":["v1","../x","b"]}"#).insert_header("link", link.as_str());
    first.respond_with(page).mount(&server).await;
    let digest = Digest::of(b"x");
    let last = format!(r#"{{"tags":["sha256-{}.jaunt","{digest}"]}}"#, digest.hex());
    Mock::given(path(LIST)).and(query_param("last", "b")).respond_with(listing(&last)).mount(&server).await;
    let tags = client().tags(&repository(&server)).await.unwrap();
    assert_eq!(tags, ["v1", "b", &format!("sha256-{}.jaunt", digest.hex())]);
}

#[tokio::test]
async fn a_repository_that_is_not_there_has_no_tags() {
    for answer in [ResponseTemplate::new(404), listing(r#"{"name":"a/b","tags":null}"#)] {
        let server = MockServer::start().await;
        Mock::given(path(LIST)).respond_with(answer).mount(&server).await;
        assert_eq!(client().tags(&repository(&server)).await.unwrap(), [""; 0]);
    }
}

#[tokio::test]
async fn hostile_listings_end_in_errors() {
    for (answer, want) in [
        (listing("{}").insert_header("link", format!(r#"<{LIST}>; rel="next""#).as_str()), "256 pages"),
        (listing(r#"{"tags":3}"#), "is not a list of tags"),
        (ResponseTemplate::new(200).set_body_bytes(vec![b' '; (4 << 20) + 1]), "longer than the limit"),
    ] {
        let server = MockServer::start().await;
        Mock::given(path(LIST)).respond_with(answer).mount(&server).await;
        let error = client().tags(&repository(&server)).await.unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[tokio::test]
async fn a_tag_is_deleted_where_the_registry_can() {
    for (status, deleted) in
        [(202, Some(true)), (405, Some(false)), (400, Some(false)), (403, None), (404, None)]
    {
        let server = MockServer::start().await;
        let delete = Mock::given(method("DELETE")).and(path("/v2/a/b/manifests/t"));
        delete.respond_with(ResponseTemplate::new(status)).expect(1).mount(&server).await;
        assert_eq!(client().delete_tag(&repository(&server), "t").await.ok(), deleted, "{status}");
    }
    let server = MockServer::start().await;
    let name = Digest::of(b"x").to_string();
    let error = client().delete_tag(&repository(&server), &name).await.unwrap_err();
    assert!(matches!(error, Error::InvalidName { .. }), "{error}");
    assert!(server.received_requests().await.unwrap().is_empty());
}
