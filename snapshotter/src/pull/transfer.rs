//! Pulling through containerd's transfer service, with progress.
//!
//! A request refers to streams by name: they are opened first, and stay open while it runs. Messages
//! travel in `Any` under their bare protobuf name, as containerd writes them.

use jaunt_formats::Reference;
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::containerd::{Containerd, Way};
use super::{PullError, Request, credentials, in_namespace, refused};
use crate::lease::Lease;
use crate::proto::containerd::services::streaming::v1::StreamInit;
use crate::proto::containerd::services::streaming::v1::streaming_client::StreamingClient;
use crate::proto::containerd::services::transfer::v1::transfer_client::TransferClient;
use crate::proto::containerd::services::transfer::v1::{TransferOptions, TransferRequest};
use crate::proto::containerd::types::Platform;
use crate::proto::containerd::types::transfer::{
    AuthRequest, AuthResponse, AuthType, ImageStore, OciRegistry, Progress, RegistryResolver,
    UnpackConfiguration,
};

/// What the transfer service says when it is to unpack for a snapshotter that it was not told of.
const NO_UNPACK_CONFIG: &str = "no unpack platforms defined";

/// Pulls and unpacks, telling containerd's progress.
///
/// The streams are leased: containerd's garbage collection knows the namespaces that its database has, and in one
/// that is new takes streams for garbage before the pull has looked for them. What is pulled is not: the service has
/// a lease of its own for that, which ends with a pull that is broken off.
pub(super) async fn pull(containerd: &Containerd, request: &Request) -> Result<(), PullError> {
    let (channel, namespace) = (&containerd.channel, &request.namespace);
    let lease = Lease::take(channel, namespace, unique("streams")).await;
    let lease = lease.map_err(refused(&request.address, "give a lease"))?;
    let pulled = pull_leased(containerd, request, &lease).await;
    if let Err(status) = lease.end(channel, namespace).await {
        tracing::debug!(%status, "a lease ends by itself");
    }
    pulled
}

async fn pull_leased(containerd: &Containerd, request: &Request, lease: &Lease) -> Result<(), PullError> {
    let progress = Stream::open(containerd, request, lease, "progress").await?;
    let auth = Stream::open(containerd, request, lease, "auth").await?;
    let message = TransferRequest {
        source: Some(any("containerd.types.transfer.OCIRegistry", &source(request, &auth.id))),
        destination: Some(any("containerd.types.transfer.ImageStore", &destination(request))),
        options: Some(TransferOptions { progress_stream: progress.id.clone() }),
    };
    let printer = tokio::spawn(print(progress, request.progress));
    let authenticator = tokio::spawn(authenticate(auth, request.image.clone()));
    let pulled = TransferClient::new(containerd.channel.clone())
        .transfer(in_namespace(message, &request.namespace))
        .await
        .map_err(|status| failed(request, status));
    printer.abort();
    authenticator.abort();
    pulled.map(drop)
}

fn failed(request: &Request, status: tonic::Status) -> PullError {
    if status.code() == Code::InvalidArgument && status.message().contains(NO_UNPACK_CONFIG) {
        return PullError::NotUnpacked {
            address: request.address.clone(),
            snapshotter: request.snapshotter.clone(),
            hint: Way::Transfer.hint(),
        };
    }
    refused(&request.address, "pull")(status)
}

fn source(request: &Request, auth_stream: &str) -> OciRegistry {
    OciRegistry {
        reference: request.image.to_string(),
        resolver: Some(RegistryResolver {
            auth_stream: auth_stream.to_owned(),
            host_dir: request.hosts_dir.display().to_string(),
            ..RegistryResolver::default()
        }),
    }
}

fn destination(request: &Request) -> ImageStore {
    let unpack = UnpackConfiguration { platform: Some(platform()), snapshotter: request.snapshotter.clone() };
    ImageStore {
        name: request.image.to_string(),
        platforms: vec![platform()],
        unpacks: vec![unpack],
        ..ImageStore::default()
    }
}

fn platform() -> Platform {
    let host = jaunt_formats::Platform::host();
    Platform { os: host.os().to_owned(), architecture: host.architecture().to_owned(), ..Platform::default() }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: name.to_owned(), value: message.encode_to_vec() }
}

/// A name that no other pull gives.
fn unique(what: &str) -> String {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("jaunt-{what}-{}-{}", std::process::id(), nanos.as_nanos())
}

struct Stream {
    id: String,
    send: mpsc::Sender<Any>,
    receive: Streaming<Any>,
}

impl Stream {
    /// Opens a stream and waits until containerd knows its name.
    async fn open(
        containerd: &Containerd,
        request: &Request,
        lease: &Lease,
        what: &str,
    ) -> Result<Self, PullError> {
        let id = unique(what);
        let init = any("containerd.services.streaming.v1.StreamInit", &StreamInit { id: id.clone() });
        let (send, outgoing) = mpsc::channel(4);
        // The channel is new and has room.
        let _ = send.try_send(init);
        let outgoing = lease.cover(in_namespace(ReceiverStream::new(outgoing), &request.namespace));
        let opened = StreamingClient::new(containerd.channel.clone()).stream(outgoing).await;
        let mut receive = opened.map_err(refused(&request.address, "open a stream"))?.into_inner();
        receive.message().await.map_err(refused(&request.address, "open a stream"))?;
        Ok(Self { id, send, receive })
    }
}

async fn print(mut stream: Stream, tell: fn(&str)) {
    let mut last = String::new();
    while let Ok(Some(message)) = stream.receive.message().await {
        let Ok(progress) = Progress::decode(message.value.as_slice()) else { continue };
        // Byte counts come many times a second; what changes is worth a line.
        let line = format!("{} {}", progress.event, progress.name);
        if line != last {
            tell(line.trim_end());
            last = line;
        }
    }
}

/// Answers what containerd asks for a registry; an empty answer is anonymous access. A mirror is asked for
/// by its own name: the image's registry's credentials are not its business.
async fn authenticate(mut stream: Stream, image: Reference) {
    while let Ok(Some(asked)) = stream.receive.message().await {
        let Ok(asked) = AuthRequest::decode(asked.value.as_slice()) else { return };
        let answer = match credentials::find(&asked.host, &image).await {
            None => AuthResponse::default(),
            // It has no way to take a token for the registry itself.
            Some(auth) if !auth.registry_token.is_empty() => {
                tracing::warn!(
                    host = asked.host,
                    "a registry token cannot be passed to containerd: pull through CRI"
                );
                AuthResponse::default()
            }
            Some(auth) if auth.identity_token.is_empty() => AuthResponse {
                auth_type: AuthType::Credentials.into(),
                username: auth.username,
                secret: auth.password,
                ..AuthResponse::default()
            },
            Some(auth) => AuthResponse {
                auth_type: AuthType::Refresh.into(),
                secret: auth.identity_token,
                ..AuthResponse::default()
            },
        };
        if stream.send.send(any("containerd.types.transfer.AuthResponse", &answer)).await.is_err() {
            return;
        }
    }
}

/// Secrets are not printed.
impl std::fmt::Debug for AuthResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthResponse").field("username", &self.username).finish_non_exhaustive()
    }
}
