//! As much of a containerd as `pull` talks to, with a daemon's status on the same socket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::stream::BoxStream;
use jaunt_snapshotter::proto::containerd::services::introspection::v1 as introspection;
use jaunt_snapshotter::proto::containerd::services::introspection::v1::introspection_server as introspect;
use jaunt_snapshotter::proto::containerd::services::streaming::v1 as streaming;
use jaunt_snapshotter::proto::containerd::services::streaming::v1::streaming_server as stream;
use jaunt_snapshotter::proto::containerd::services::transfer::v1 as transfer;
use jaunt_snapshotter::proto::containerd::services::transfer::v1::transfer_server as transfers;
use jaunt_snapshotter::proto::containerd::services::version::v1 as version;
use jaunt_snapshotter::proto::containerd::services::version::v1::version_server as versions;
use jaunt_snapshotter::proto::containerd::types::transfer::{
    AuthRequest, AuthResponse, ImageStore, OciRegistry, Progress,
};
use jaunt_snapshotter::proto::google::rpc;
use jaunt_snapshotter::proto::jaunt::status::v1 as status;
use jaunt_snapshotter::proto::jaunt::status::v1::status_server as statuses;
use jaunt_snapshotter::proto::runtime::v1 as cri;
use jaunt_snapshotter::proto::runtime::v1::image_service_server as images;
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What this containerd can do.
#[derive(Clone, Copy)]
pub struct Features {
    pub transfer: bool,
    pub annotations: bool,
    pub cri: bool,
}

#[derive(Clone)]
pub struct Containerd(Arc<Shared>);

struct Shared {
    dir: tempfile::TempDir,
    features: Features,
    seen: Mutex<Vec<String>>,
    held: Mutex<Vec<status::Snapshot>>,
    streams: Mutex<HashMap<String, Opened>>,
}

type Opened = (mpsc::Sender<Result<Any, Status>>, Streaming<Any>);

impl Containerd {
    pub async fn start(features: Features) -> Self {
        let shared = Shared {
            dir: tempfile::tempdir().unwrap(),
            features,
            seen: Mutex::default(),
            held: Mutex::default(),
            streams: Mutex::default(),
        };
        let containerd = Self(Arc::new(shared));
        let listener = tokio::net::UnixListener::bind(containerd.socket()).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(introspect::IntrospectionServer::new(containerd.clone()))
            .add_service(versions::VersionServer::new(containerd.clone()))
            .add_service(stream::StreamingServer::new(containerd.clone()))
            .add_service(transfers::TransferServer::new(containerd.clone()))
            .add_service(images::ImageServiceServer::new(containerd.clone()))
            .add_service(statuses::StatusServer::new(containerd.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        containerd
    }

    pub fn socket(&self) -> PathBuf {
        self.0.dir.path().join("c.sock")
    }

    pub fn seen(&self) -> Vec<String> {
        self.0.seen.lock().unwrap().clone()
    }

    /// The daemon has so many lazy layers, brought by that image, with `chain` on top.
    pub fn daemon_holds(&self, image: &str, layers: usize, chain: &str) {
        let layer = |n: usize| status::Snapshot {
            name: n.to_string(),
            parent: n.checked_sub(1).map(|below| below.to_string()).unwrap_or_default(),
            kind: "committed".to_owned(),
            backing: "lazy".to_owned(),
            image: image.to_owned(),
            chain_id: if n + 1 == layers { chain.to_owned() } else { n.to_string() },
            ..Default::default()
        };
        *self.0.held.lock().unwrap() = (0..layers).map(layer).collect();
    }

    fn see(&self, what: String) {
        self.0.seen.lock().unwrap().push(what);
    }
}

fn namespace<T>(request: &Request<T>) -> String {
    request.metadata().get("containerd-namespace").unwrap().to_str().unwrap().to_owned()
}

fn decode<T: Message + Default>(any: Option<Any>, name: &str) -> T {
    let any = any.unwrap();
    assert_eq!(any.type_url, name);
    T::decode(any.value.as_slice()).unwrap()
}

fn encode(message: &impl Message) -> Any {
    Any { type_url: String::new(), value: message.encode_to_vec() }
}

#[tonic::async_trait]
impl introspect::Introspection for Containerd {
    async fn plugins(
        &self,
        _: Request<introspection::PluginsRequest>,
    ) -> Result<Response<introspection::PluginsResponse>, Status> {
        let Features { transfer, annotations, cri } = self.0.features;
        let plugin = |kind: &str, id: &str, works: bool| introspection::Plugin {
            r#type: kind.to_owned(),
            id: id.to_owned(),
            init_err: (!works).then(|| rpc::Status { code: 2, message: "dial failed".to_owned() }),
            ..Default::default()
        };
        let mut jaunt = plugin("io.containerd.snapshotter.v1", "jaunt", true);
        jaunt.exports.insert("address".to_owned(), self.socket().display().to_string());
        if annotations {
            jaunt.exports.insert("enable_remote_snapshot_annotations".to_owned(), "true".to_owned());
        }
        let plugins = vec![
            jaunt,
            plugin("io.containerd.snapshotter.v1", "broken", false),
            plugin("io.containerd.grpc.v1", "transfer", transfer),
            plugin("io.containerd.grpc.v1", "streaming", transfer),
            plugin("io.containerd.grpc.v1", "cri", cri),
        ];
        Ok(Response::new(introspection::PluginsResponse { plugins }))
    }
}

#[tonic::async_trait]
impl versions::Version for Containerd {
    async fn version(&self, _: Request<()>) -> Result<Response<version::VersionResponse>, Status> {
        Ok(Response::new(version::VersionResponse { version: "1.2.3".to_owned(), ..Default::default() }))
    }
}

#[tonic::async_trait]
impl stream::Streaming for Containerd {
    type StreamStream = BoxStream<'static, Result<Any, Status>>;

    async fn stream(&self, request: Request<Streaming<Any>>) -> Result<Response<Self::StreamStream>, Status> {
        let mut incoming = request.into_inner();
        let init = incoming.message().await?;
        let init: streaming::StreamInit = decode(init, "containerd.services.streaming.v1.StreamInit");
        let (send, outgoing) = mpsc::channel(8);
        send.send(Ok(Any::default())).await.unwrap();
        self.0.streams.lock().unwrap().insert(init.id, (send, incoming));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

#[tonic::async_trait]
impl transfers::Transfer for Containerd {
    async fn transfer(&self, request: Request<transfer::TransferRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request);
        let request = request.into_inner();
        let source: OciRegistry = decode(request.source, "containerd.types.transfer.OCIRegistry");
        let store: ImageStore = decode(request.destination, "containerd.types.transfer.ImageStore");
        if source.reference.contains("absent") {
            return Err(Status::not_found(format!("{}: not found", source.reference)));
        }
        let take = |id: &str| self.0.streams.lock().unwrap().remove(id).unwrap();
        let (progress, _) = take(&request.options.unwrap().progress_stream);
        let event = Progress { event: "pulling".to_owned(), ..Default::default() };
        progress.send(Ok(encode(&event))).await.unwrap();

        let (ask, mut answers) = take(&source.resolver.unwrap().auth_stream);
        ask.send(Ok(encode(&AuthRequest { host: "r.example".to_owned(), ..Default::default() })))
            .await
            .unwrap();
        let answer: AuthResponse = decode(answers.message().await?, "containerd.types.transfer.AuthResponse");

        let unpack = &store.unpacks[0];
        let os = &unpack.platform.as_ref().unwrap().os;
        self.see(format!(
            "transfer {namespace} {} {os} {} auth={:?}",
            store.name,
            unpack.snapshotter,
            Some(answer.auth_type)
        ));
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl images::ImageService for Containerd {
    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let namespace = namespace(&request);
        self.see(format!("cri {namespace} {}", request.into_inner().image.unwrap().image));
        Ok(Response::new(cri::PullImageResponse::default()))
    }

    async fn image_status(
        &self,
        _: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let info = [("info".to_owned(), r#"{"chainID":"chain-of-the-image"}"#.to_owned())].into();
        Ok(Response::new(cri::ImageStatusResponse { image: None, info }))
    }

    async fn remove_image(
        &self,
        _: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[tonic::async_trait]
impl statuses::Status for Containerd {
    async fn get(&self, _: Request<status::GetRequest>) -> Result<Response<status::GetResponse>, Status> {
        let snapshots = self.0.held.lock().unwrap().clone();
        Ok(Response::new(status::GetResponse { snapshots, ..Default::default() }))
    }
}
