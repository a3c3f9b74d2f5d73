//! The kubelet's image calls on their way to containerd: unchanged, but for what is learnt of them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use jaunt_distribution::Credential;
use jaunt_snapshotter::credentials::{self, Announce, KeptLogins};
use jaunt_snapshotter::proto::runtime::v1::{AuthConfig, ImageSpec, PullImageRequest};
use jaunt_snapshotter::unix_channel;
use prost::Message as _;
use tokio_stream::wrappers::UnixListenerStream;
use tower::ServiceExt as _;

const PULL: &str = "/runtime.v1.ImageService/PullImage";

/// As much of a containerd as is needed to see what reaches it.
#[derive(Clone, Default)]
struct Containerd(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    calls: Vec<(String, HeaderMap, Bytes)>,
    /// How many logins would be tried when a call arrives.
    known: Vec<usize>,
    logins: Option<Arc<KeptLogins>>,
    /// Images that were announced, and how many calls had arrived by then.
    announced: Vec<(String, usize)>,
    /// What is answered: a message, and the status behind it.
    answer: Bytes,
    status: u32,
}

impl Containerd {
    /// Serves on a socket until it is aborted.
    fn serve(&self, socket: &Path) -> tokio::task::JoinHandle<()> {
        let _ = std::fs::remove_file(socket);
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let routes = tonic::service::Routes::from(Router::new().fallback(answer).with_state(self.clone()));
        let server = tonic::transport::Server::builder().add_routes(routes);
        tokio::spawn(async move {
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

async fn answer(State(containerd): State<Containerd>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut seen = containerd.seen();
    let known = seen.logins.as_ref().map_or(0, |kept| kept.logins().of("r.example", "a").len());
    seen.known.push(known);
    seen.calls.push((head.uri.path().to_owned(), head.headers, body));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", seen.status.into());
    trailers.insert("grpc-message", "said%20by%20containerd".parse().unwrap());
    trailers.insert("x-novel", "kept".parse().unwrap());
    let body = Full::new(seen.answer.clone()).with_trailers(async { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
}

/// Containerd, the proxy before it, and the kubelet's end.
struct Bed {
    dir: tempfile::TempDir,
    containerd: Containerd,
    serving: tokio::task::JoinHandle<()>,
    kept: Arc<KeptLogins>,
}

struct Answer {
    body: Bytes,
    headers: HeaderMap,
    trailers: HeaderMap,
}

impl Answer {
    fn status(&self) -> &str {
        let status = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        status.unwrap().to_str().unwrap()
    }
}

impl Bed {
    async fn new() -> Self {
        let (dir, containerd) = (tempfile::tempdir().unwrap(), Containerd::default());
        let kept = Arc::new(KeptLogins::open(None));
        containerd.seen().logins = Some(kept.clone());
        let serving = containerd.serve(&dir.path().join("containerd.sock"));
        let (socket, behind) = (dir.path().join("cri.sock"), dir.path().join("containerd.sock"));
        let (logins, told) = (kept.clone(), containerd.clone());
        let announce: Announce = Arc::new(move |image| {
            let mut seen = told.seen();
            let calls = seen.calls.len();
            seen.announced.push((image.to_string(), calls));
        });
        let parts = (logins, announce);
        tokio::spawn(async move { credentials::keep_serving(&socket, &behind, parts, |_| ()).await });
        let bed = Self { dir, containerd, serving, kept };
        while !bed.socket().exists() {
            tokio::task::yield_now().await;
        }
        bed
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("cri.sock")
    }

    async fn call(&self, path: &str, message: &[u8]) -> Answer {
        let channel = unix_channel::connect(&self.socket()).await.unwrap();
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-of-the-kubelet", "kept")
            .body(tonic::body::Body::new(Full::new(Bytes::from(frame))))
            .unwrap();
        let (head, body) = channel.oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        Answer { body: body.to_bytes(), headers: head.headers, trailers }
    }

    fn passwords(&self) -> Vec<String> {
        let password = |credential| match credential {
            Credential::Password { password, .. } => password.reveal().to_owned(),
            other => panic!("{other:?}"),
        };
        self.kept.logins().all().into_iter().map(|login| password(login.credential)).collect()
    }
}

/// Nobody is told of images.
fn nobody() -> Announce {
    Arc::new(|_| ())
}

fn pull(password: &str) -> Vec<u8> {
    let image = Some(ImageSpec { image: "r.example/a:1".to_owned() });
    let auth = AuthConfig { username: "u".into(), password: password.into(), ..AuthConfig::default() };
    PullImageRequest { image, auth: Some(auth) }.encode_to_vec()
}

/// A field of a later version: number 99, of bytes.
const NOVEL: &[u8] = &[0x9a, 0x06, 0x03, b'n', b'e', b'w'];

#[tokio::test]
async fn every_byte_passes_both_ways_and_so_does_what_is_not_known_here() {
    let bed = Bed::new().await;
    bed.containerd.seen().answer = [&[0, 0, 0, 0, 6][..], NOVEL].concat().into();
    let message = [&pull("p")[..], NOVEL].concat();
    for path in [PULL, "/runtime.v1.ImageService/Novel", "/runtime.v1alpha2.ImageService/ListImages"] {
        let answer = bed.call(path, &message).await;
        assert_eq!(answer.body[5..], *NOVEL);
        assert_eq!((answer.status(), &answer.trailers["x-novel"]), ("0", &"kept".parse().unwrap()));
        let (seen_path, headers, body) = bed.containerd.seen().calls.pop().unwrap();
        assert_eq!((seen_path.as_str(), &body[5..]), (path, &message[..]));
        assert_eq!(headers["x-of-the-kubelet"], "kept");
    }
    // An error is containerd's own, too.
    bed.containerd.seen().status = 5;
    let answer = bed.call("/runtime.v1.ImageService/ImageStatus", b"").await;
    assert_eq!(
        (answer.status(), &answer.trailers["grpc-message"]),
        ("5", &"said%20by%20containerd".parse().unwrap())
    );
}

#[tokio::test]
async fn a_login_is_known_before_containerd_is_asked_and_stays_if_the_pull_succeeds() {
    let bed = Bed::new().await;
    assert_eq!(bed.call(PULL, &pull("first")).await.status(), "0");
    assert_eq!(bed.containerd.seen().known, [1]);
    bed.containerd.seen().status = 2;
    let refused = bed.call(PULL, &pull("wrong")).await;
    assert_eq!(refused.status(), "2");
    assert_eq!(bed.containerd.seen().known, [1, 2]);
    assert_eq!(bed.passwords(), ["first"]);
    // One that was good before is not lost to a registry that is down.
    bed.call(PULL, &pull("first")).await;
    assert_eq!(bed.passwords(), ["first"]);
    bed.containerd.seen().status = 0;
    bed.call(PULL, &pull("second")).await;
    assert_eq!(bed.passwords(), ["second", "first"]);
}

#[tokio::test]
async fn an_image_is_announced_before_containerd_is_asked_for_it() {
    let bed = Bed::new().await;
    bed.call(PULL, &pull("p")).await;
    let image = Some(ImageSpec { image: "busybox".to_owned() });
    bed.call(PULL, &PullImageRequest { image, auth: None }.encode_to_vec()).await;
    // What is no pull, or names no image, is nobody's business.
    bed.call("/runtime.v1.ImageService/ImageStatus", &pull("p")).await;
    bed.call(PULL, b"\xff\xff\xff").await;
    let announced = std::mem::take(&mut bed.containerd.seen().announced);
    assert_eq!(
        announced,
        [("r.example/a:1".to_owned(), 0), ("docker.io/library/busybox:latest".to_owned(), 1)]
    );
    assert_eq!(bed.containerd.seen().calls.len(), 4);
}

#[tokio::test]
async fn nothing_else_that_containerd_has_is_within_reach() {
    let bed = Bed::new().await;
    for path in [
        "/containerd.services.content.v1.Content/Delete",
        "/runtime.v1.RuntimeService/ExecSync",
        "/x/runtime.v1.ImageService/PullImage",
    ] {
        assert_eq!(bed.call(path, b"").await.status(), "12", "{path}");
    }
    assert!(bed.containerd.seen().calls.is_empty());
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_containerds_to_refuse() {
    let bed = Bed::new().await;
    bed.containerd.seen().status = 3;
    assert_eq!(bed.call(PULL, b"\xff\xff\xff").await.status(), "3");
    assert_eq!(bed.containerd.seen().calls.len(), 1);
    let too_long = bed.call(PULL, &vec![0; 17 << 20]).await;
    assert_eq!(too_long.status(), "8");
    assert!(bed.passwords().is_empty());
}

#[tokio::test]
async fn containerd_may_go_and_come_back() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.call(PULL, &pull("p")).await.status(), "0");
    bed.serving.abort();
    let _ = (&mut bed.serving).await;
    let socket = bed.dir.path().join("containerd.sock");
    std::fs::remove_file(&socket).unwrap();
    // A connection that is still open may serve a call or two: what counts is that a new one is made.
    bed.serving = bed.containerd.serve(&socket);
    let mut status = String::new();
    for _ in 0..10 {
        status = bed.call(PULL, &pull("p")).await.status().to_owned();
        if status == "0" {
            break;
        }
    }
    assert_eq!(status, "0");
    bed.serving.abort();
    let _ = (&mut bed.serving).await;
    std::fs::remove_file(&socket).unwrap();
}

#[tokio::test]
async fn without_containerd_the_kubelet_is_told_where_it_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, behind) = (dir.path().join("cri.sock"), dir.path().join("nobody.sock"));
    let kept = Arc::new(KeptLogins::open(None));
    let (at, logins) = (socket.clone(), kept.clone());
    tokio::spawn(async move { credentials::keep_serving(&at, &behind, (logins, nobody()), |_| ()).await });
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let serving = tokio::spawn(async {});
    let bed = Bed { dir, containerd: Containerd::default(), serving, kept };
    let answer = bed.call(PULL, &pull("p")).await;
    assert_eq!(answer.status(), "14");
    assert!(answer.headers["grpc-message"].to_str().unwrap().contains("nobody.sock"));
    assert!(bed.passwords().is_empty());
}

#[tokio::test]
async fn a_socket_that_another_process_has_is_taken_when_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, behind) = (dir.path().join("cri.sock"), dir.path().join("nobody.sock"));
    let other = tokio::net::UnixListener::bind(&socket).unwrap();
    let (told, mut troubles) = tokio::sync::mpsc::unbounded_channel();
    let note = move |trouble: &str| told.send(trouble.to_owned()).unwrap();
    let kept = Arc::new(KeptLogins::open(None));
    let serving =
        tokio::spawn(
            async move { credentials::keep_serving(&socket, &behind, (kept, nobody()), note).await },
        );
    let first = troubles.recv().await.unwrap();
    assert!(first.contains("cri.sock"), "{first}");
    drop(other);
    while !troubles.recv().await.unwrap().is_empty() {}
    serving.abort();
}
