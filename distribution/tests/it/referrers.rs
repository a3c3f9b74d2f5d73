//! Referrers: by the API, page after page, and by the fallback tag.

use jaunt_distribution::{Error, referrers_tag};
use jaunt_formats::media_type::{OCI_INDEX, OCI_MANIFEST};
use jaunt_formats::{Digest, media_type};
use wiremock::matchers::{method, path, query_param, query_param_is_missing};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{client, repository};

fn api(subject: &Digest) -> String {
    format!("/v2/a/b/referrers/{subject}")
}

/// An index of descriptors, each named by its artifact type.
fn index(artifact_types: &[&str]) -> ResponseTemplate {
    let one = |kind: &&str| {
        let digest = Digest::of(kind.as_bytes());
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":1,"artifactType":"{kind}"}}"#)
    };
    let manifests = artifact_types.iter().map(one).collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{manifests}]}}"#);
    ResponseTemplate::new(200).set_body_raw(body, OCI_INDEX)
}

async fn types(server: &MockServer, wanted: Option<&str>) -> Result<Vec<String>, Error> {
    let found = client().referrers(&repository(server), &Digest::of(b"subject"), wanted).await?;
    Ok(found.iter().map(|found| found.artifact_type().as_ref().unwrap().to_string()).collect())
}

#[tokio::test]
async fn pages_are_followed_and_filtered_where_the_registry_has_not() {
    let (server, subject) = (MockServer::start().await, Digest::of(b"subject"));
    let next = format!(r#"<{}?page=2>; rel="next""#, api(&subject));
    let first = Mock::given(path(api(&subject))).and(query_param_is_missing("page"));
    first.respond_with(index(&["x/a", "x/b"]).insert_header("link", next.as_str())).mount(&server).await;
    let second = Mock::given(path(api(&subject))).and(query_param("page", "2"));
    second.respond_with(index(&["x/a", "x/c"])).mount(&server).await;
    assert_eq!(types(&server, None).await.unwrap(), ["x/a", "x/b", "x/a", "x/c"]);
    assert_eq!(types(&server, Some("x/a")).await.unwrap(), ["x/a", "x/a"]);
    assert_eq!(types(&server, Some("x/z")).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_registrys_own_filter_is_believed() {
    let (server, subject) = (MockServer::start().await, Digest::of(b"subject"));
    let asked =
        Mock::given(path(api(&subject))).and(query_param("artifactType", media_type::LAUNCH_ARTIFACT));
    let answer = index(&["x/a"]).insert_header("oci-filters-applied", "other, artifactType");
    asked.respond_with(answer).mount(&server).await;
    assert_eq!(types(&server, Some(media_type::LAUNCH_ARTIFACT)).await.unwrap(), ["x/a"]);
}

#[tokio::test]
async fn without_the_api_the_fallback_tag_is_read() {
    for answer in [
        ResponseTemplate::new(404),
        ResponseTemplate::new(405),
        ResponseTemplate::new(200).set_body_raw("<html>", "text/html"),
    ] {
        let (server, subject) = (MockServer::start().await, Digest::of(b"subject"));
        Mock::given(path(api(&subject))).respond_with(answer).mount(&server).await;
        assert_eq!(types(&server, None).await.unwrap(), [""; 0]);
        let tag = format!("/v2/a/b/manifests/{}", referrers_tag(&subject));
        assert!(tag.ends_with(&format!("/sha256-{}", subject.hex())));
        Mock::given(path(tag)).respond_with(index(&["x/a", "x/b"])).mount(&server).await;
        assert_eq!(types(&server, Some("x/b")).await.unwrap(), ["x/b"]);
    }
}

#[tokio::test]
async fn refusals_and_troubles_are_not_taken_for_a_missing_api() {
    for (status, transient) in [(403, false), (500, true), (429, true)] {
        let server = MockServer::start().await;
        Mock::given(method("GET")).respond_with(ResponseTemplate::new(status)).mount(&server).await;
        assert_eq!(types(&server, None).await.unwrap_err().is_transient(), transient);
    }
}

#[tokio::test]
async fn hostile_listings_end_in_errors() {
    let subject = Digest::of(b"subject");
    for (link, want) in [
        (format!(r#"<{}>; rel="next""#, api(&subject)), "more than 64 pages"),
        (r#"<http://127.0.0.9/x>; rel="next""#.to_owned(), "leads to another host"),
    ] {
        let server = MockServer::start().await;
        let answer = index(&["x/a"]).insert_header("link", link.as_str());
        Mock::given(path(api(&subject))).respond_with(answer).mount(&server).await;
        let error = types(&server, None).await.unwrap_err();
        assert!(error.to_string().ends_with(want), "{error}");
    }
    let server = MockServer::start().await;
    let broken = ResponseTemplate::new(200).set_body_raw(r#"{"manifests":3}"#, OCI_INDEX);
    Mock::given(path(api(&subject))).respond_with(broken).mount(&server).await;
    assert!(matches!(types(&server, None).await, Err(Error::Malformed { .. })));
    let server = MockServer::start().await;
    let holes = ResponseTemplate::new(200).set_body_raw(r#"{"manifests":[{},{"digest":"x"},7]}"#, OCI_INDEX);
    Mock::given(path(api(&subject))).respond_with(holes).mount(&server).await;
    assert_eq!(types(&server, None).await.unwrap(), [""; 0]);
}
