//! A socket for the kubelet's image calls, in front of containerd's.
//!
//! What comes in goes out as it is, byte by byte: whatever a newer kubelet and a newer containerd say to each other
//! they can say through here. Only PullImage is looked at on its way, for the image that it names and the login in it. The login is
//! known before containerd has the call, since containerd asks this snapshotter for the image's layers while it pulls; but on trial,
//! after those that were good, until the pull succeeds: nobody's wrong login takes the place of a good one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use jaunt_distribution::{Credential, GivenLogin, Repository, Secret};
use jaunt_formats::Reference;
use prost::Message as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Channel;
use tower::ServiceExt as _;

use super::KeptLogins;
use crate::fallback::error_chain;
use crate::proto::runtime::v1::{AuthConfig, PullImageRequest};
use crate::supervisor::{ListenError, bind_socket};
use crate::unix_channel;

/// Image services of every version, and nothing else that containerd has.
const SERVICE: (&str, &str) = ("/runtime.", ".ImageService/");
const PULL: &str = ".ImageService/PullImage";
/// What gRPC in Go takes as a message, as the kubelet has it set.
const MAX_MESSAGE: usize = 16 << 20;
/// Until a socket that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// A flag, and the length.
const FRAME_HEADER: usize = 5;

/// Why the kubelet's image calls cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The socket cannot be had.
    #[error("CRI image proxy")]
    Listen(#[from] ListenError),
    /// It cannot be used.
    #[error("CRI image proxy: {0}")]
    Io(#[from] std::io::Error),
    /// It cannot be served.
    #[error("CRI image proxy")]
    Serve(#[from] tonic::transport::Error),
}

#[derive(Clone)]
struct Proxy {
    containerd: Channel,
    socket: Arc<PathBuf>,
    kept: Arc<KeptLogins>,
    announce: Announce,
}

/// Is told of an image that is about to be pulled, after its login is known and before containerd is.
pub type Announce = Arc<dyn Fn(Reference) + Send + Sync>;

/// Takes calls on `socket` and passes them on to `containerd`, until the runtime ends. A socket that cannot be had is tried
/// again; `note` is told why, and nothing when it is had.
pub async fn keep_serving(
    socket: &Path,
    containerd: &Path,
    (kept, announce): (Arc<KeptLogins>, Announce),
    note: impl Fn(&str),
) {
    loop {
        let why = match serve(socket, containerd, (kept.clone(), announce.clone()), &note).await {
            Ok(()) => "it has ended".to_owned(),
            Err(error) => error_chain(&error),
        };
        note(&why);
        tokio::time::sleep(AGAIN).await;
    }
}

async fn serve(
    socket: &Path,
    containerd: &Path,
    (kept, announce): (Arc<KeptLogins>, Announce),
    note: &impl Fn(&str),
) -> Result<(), CriError> {
    let listener = bind_socket(socket)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let (channel, socket_behind) = (unix_channel::lazy(containerd), Arc::new(containerd.to_owned()));
    let proxy = Proxy { containerd: channel, socket: socket_behind, kept, announce };
    let routes = Routes::from(Router::new().fallback(answer).with_state(proxy));
    tracing::info!(socket = %socket.display(), containerd = %containerd.display(), "taking the kubelet's image calls");
    note("");
    let server = tonic::transport::Server::builder().add_routes(routes);
    Ok(server.serve_with_incoming(UnixListenerStream::new(listener)).await?)
}

async fn answer(State(proxy): State<Proxy>, request: Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let is_ours = path.starts_with(SERVICE.0) && path.contains(SERVICE.1);
    let answer = match is_ours {
        true if path.ends_with(PULL) => proxy.pull(request).await,
        true => proxy.pass_on(request).await,
        false => Err(Status::unimplemented("only CRI's image service is served here")),
    };
    answer.unwrap_or_else(|status| status.into_http())
}

impl Proxy {
    async fn pass_on(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let sent = self.containerd.clone().oneshot(request.map(tonic::body::Body::new)).await;
        let answer = sent.map_err(|error| {
            let why = error_chain(&error);
            Status::unavailable(format!("containerd at {}: {why}", self.socket.display()))
        })?;
        Ok(answer.map(Body::new))
    }

    async fn pull(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let message = Limited::new(body, MAX_MESSAGE + FRAME_HEADER).collect().await;
        let message =
            message.map_err(|_| Status::resource_exhausted("PullImage is too long, or was cut short"))?;
        let message = message.to_bytes();
        let asked = asked(&message);
        let login = asked.clone().and_then(|(image, auth)| login_of(&image, auth?));
        // Ends with the call, also where the kubelet gives it up.
        let trial = login.map(|login| self.kept.try_out(login));
        if let Some((image, _)) = asked {
            (self.announce)(image);
        }
        let answered = self.pass_on(Request::from_parts(head, Body::new(Full::new(message)))).await;
        let (answer, succeeded) = match answered {
            Ok(answer) => whole(answer).await?,
            Err(status) => (status.into_http(), false),
        };
        if let Some(trial) = trial.filter(|_| succeeded) {
            trial.succeeded();
        }
        Ok(answer)
    }
}

/// An answer with its end, and whether that is a success.
async fn whole(answer: Response<Body>) -> Result<(Response<Body>, bool), Status> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_MESSAGE + FRAME_HEADER).collect().await;
    let body =
        body.map_err(|error| Status::unavailable(format!("containerd's answer was cut short: {error}")))?;
    let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
    let succeeded = status.or_else(|| head.headers.get("grpc-status")).is_some_and(|status| status == "0");
    Ok((Response::from_parts(head, Body::new(body)), succeeded))
}

/// The image that a PullImage names, and what it says of a login.
fn asked(message: &Bytes) -> Option<(Reference, Option<AuthConfig>)> {
    let (header, rest) = message.split_at_checked(FRAME_HEADER)?;
    // Compressed messages are left alone: the kubelet sends none.
    let len = usize::try_from(u32::from_be_bytes(header[1..].try_into().ok()?)).ok()?;
    let message = rest.get(..len).filter(|_| header[0] == 0)?;
    let pull = PullImageRequest::decode(message).ok()?;
    Some((pull.image?.image.parse().ok()?, pull.auth))
}

/// That login, if it can be used.
fn login_of(image: &Reference, auth: AuthConfig) -> Option<GivenLogin> {
    let credential = credential(auth, image.host())?;
    Some(GivenLogin { repository: Repository::from(image), credential })
}

/// What containerd would use of it, in containerd's order.
fn credential(auth: AuthConfig, host: &str) -> Option<Credential> {
    if !auth.server_address.is_empty() && !names(&auth.server_address, host) {
        return None;
    }
    if !auth.username.is_empty() {
        return Some(Credential::Password { username: auth.username, password: Secret::new(auth.password) });
    }
    if !auth.identity_token.is_empty() {
        return Some(Credential::IdentityToken(Secret::new(auth.identity_token)));
    }
    if !auth.auth.is_empty() {
        return Credential::from_auth(&auth.auth).ok();
    }
    let token = Some(auth.registry_token).filter(|token| !token.is_empty())?;
    Some(Credential::RegistryToken(Secret::new(token)))
}

/// Whether a server's address, a URL perhaps, is that of a registry.
fn names(address: &str, host: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" => host == "docker.io",
        named => named == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::runtime::v1::ImageSpec;

    fn framed(message: &PullImageRequest) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        framed.extend(bytes);
        framed
    }

    fn pull(image: &str, auth: AuthConfig) -> Vec<u8> {
        framed(&PullImageRequest { image: Some(ImageSpec { image: image.to_owned() }), auth: Some(auth) })
    }

    fn found(message: Vec<u8>) -> Option<Credential> {
        login(message).map(|login| login.credential)
    }

    fn login(message: Vec<u8>) -> Option<GivenLogin> {
        asked(&message.into()).and_then(|(image, auth)| login_of(&image, auth?))
    }

    fn password(username: &str, password: &str) -> Option<Credential> {
        let password = Secret::new(password.to_owned());
        Some(Credential::Password { username: username.to_owned(), password })
    }

    #[test]
    fn logins_are_read_as_containerd_reads_them() {
        let user = AuthConfig { username: "u".into(), password: "p".into(), ..AuthConfig::default() };
        let both = AuthConfig { identity_token: "i".into(), auth: "dTpw".into(), ..AuthConfig::default() };
        let encoded = AuthConfig { auth: "eDp5".into(), ..AuthConfig::default() };
        let token = AuthConfig { registry_token: "t".into(), ..AuthConfig::default() };
        let secret = |text: &str| Secret::new(text.to_owned());
        for (auth, expected) in [
            (user.clone(), password("u", "p")),
            (AuthConfig { auth: "eDp5".into(), ..user.clone() }, password("u", "p")),
            (both, Some(Credential::IdentityToken(secret("i")))),
            (encoded, password("x", "y")),
            (token, Some(Credential::RegistryToken(secret("t")))),
            (AuthConfig::default(), None),
            (AuthConfig { auth: "!".into(), ..AuthConfig::default() }, None),
        ] {
            assert_eq!(found(pull("r.example/a:1", auth)), expected);
        }
        for (address, expected) in [
            ("r.example", true),
            ("https://r.example/v1/", true),
            ("other.example", false),
            ("r.example:5000", false),
        ] {
            let auth = AuthConfig { server_address: address.into(), ..user.clone() };
            assert_eq!(found(pull("r.example/a@sha256:", auth.clone())), None, "no reference");
            assert_eq!(found(pull("r.example/a", auth)).is_some(), expected, "{address}");
        }
        let hub = AuthConfig { server_address: "https://index.docker.io/v1/".into(), ..user };
        let login = login(pull("busybox", hub)).unwrap();
        assert_eq!(login.repository.to_string(), "docker.io/library/busybox");
    }

    #[test]
    fn what_cannot_be_read_is_nobodys_login() {
        let whole = pull("r.example/a", AuthConfig { username: "u".into(), ..AuthConfig::default() });
        assert!(found(whole.clone()).is_some());
        for len in 0..whole.len() {
            assert_eq!(found(whole[..len].to_vec()), None, "{len}");
        }
        let mut compressed = whole.clone();
        compressed[0] = 1;
        assert_eq!(found(compressed), None);
        let mut longer = whole;
        longer[1..5].fill(0xff);
        assert_eq!(found(longer), None);
        assert_eq!(found(framed(&PullImageRequest::default())), None);
    }
}
