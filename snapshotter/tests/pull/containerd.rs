//! As much of a containerd as `pull` talks to, with a daemon's status on the same socket.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::stream::BoxStream;
use jaunt_snapshotter::proto::containerd::services::content::v1 as content;
use jaunt_snapshotter::proto::containerd::services::content::v1::content_server as contents;
use jaunt_snapshotter::proto::containerd::services::images::v1 as image;
use jaunt_snapshotter::proto::containerd::services::images::v1::images_server as image_records;
use jaunt_snapshotter::proto::containerd::services::introspection::v1 as introspection;
use jaunt_snapshotter::proto::containerd::services::introspection::v1::introspection_server as introspect;
use jaunt_snapshotter::proto::containerd::services::leases::v1 as lease;
use jaunt_snapshotter::proto::containerd::services::leases::v1::leases_server as leases;
use jaunt_snapshotter::proto::containerd::services::streaming::v1 as streaming;
use jaunt_snapshotter::proto::containerd::services::streaming::v1::streaming_server as stream;
use jaunt_snapshotter::proto::containerd::services::transfer::v1 as transfer;
use jaunt_snapshotter::proto::containerd::services::transfer::v1::transfer_server as transfers;
use jaunt_snapshotter::proto::containerd::services::version::v1 as version;
use jaunt_snapshotter::proto::containerd::services::version::v1::version_server as versions;
use jaunt_snapshotter::proto::containerd::types::Descriptor;
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
    pub version: &'static str,
    pub transfer: bool,
    pub annotations: bool,
    pub cri: bool,
}

/// The snapshot on record of every image here.
pub const CHAIN: &str = "chain-of-the-image";

#[derive(Clone)]
pub struct Containerd(Arc<Shared>);

struct Shared {
    dir: tempfile::TempDir,
    features: Features,
    seen: Mutex<Vec<String>>,
    snapshotter: Mutex<String>,
    held: Mutex<Vec<status::Snapshot>>,
    streams: Mutex<HashMap<String, Opened>>,
    leases: Mutex<BTreeSet<String>>,
    looks: AtomicUsize,
}

type Opened = (mpsc::Sender<Result<Any, Status>>, Streaming<Any>);

impl Containerd {
    pub async fn start(features: Features) -> Self {
        let shared = Shared {
            dir: tempfile::tempdir().unwrap(),
            features,
            seen: Mutex::default(),
            snapshotter: Mutex::new("jaunt".to_owned()),
            held: Mutex::default(),
            streams: Mutex::default(),
            leases: Mutex::default(),
            looks: AtomicUsize::new(0),
        };
        let containerd = Self(Arc::new(shared));
        let listener = tokio::net::UnixListener::bind(containerd.socket()).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(introspect::IntrospectionServer::new(containerd.clone()))
            .add_service(versions::VersionServer::new(containerd.clone()))
            .add_service(stream::StreamingServer::new(containerd.clone()))
            .add_service(leases::LeasesServer::new(containerd.clone()))
            .add_service(transfers::TransferServer::new(containerd.clone()))
            .add_service(image_records::ImagesServer::new(containerd.clone()))
            .add_service(contents::ContentServer::new(containerd.clone()))
            .add_service(images::ImageServiceServer::new(containerd.clone()))
            .add_service(statuses::StatusServer::new(containerd.clone()));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        containerd
    }

    pub fn socket(&self) -> PathBuf {
        self.0.dir.path().join("c.sock")
    }

    /// Images are unpacked by that snapshotter instead.
    pub fn unpacks_with(&self, snapshotter: &str) {
        *self.0.snapshotter.lock().unwrap() = snapshotter.to_owned();
    }

    pub fn seen(&self) -> Vec<String> {
        self.0.seen.lock().unwrap().clone()
    }

    /// Leases that nobody has given back.
    pub fn leases(&self) -> BTreeSet<String> {
        self.0.leases.lock().unwrap().clone()
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
        let Features { transfer, annotations, cri, .. } = self.0.features;
        let plugin = |kind: &str, id: &str, works: bool| introspection::Plugin {
            r#type: kind.to_owned(),
            id: id.to_owned(),
            init_err: (!works).then(|| rpc::Status { code: 2, message: "dial failed".to_owned() }),
            ..Default::default()
        };
        let proxy = |id: &str| {
            let mut proxy = plugin("io.containerd.snapshotter.v1", id, true);
            proxy.exports.insert("address".to_owned(), self.socket().display().to_string());
            if annotations {
                proxy.exports.insert("enable_remote_snapshot_annotations".to_owned(), "true".to_owned());
            }
            proxy
        };
        let plugins = vec![
            proxy("jaunt"),
            proxy("unlisted"),
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
        Ok(Response::new(version::VersionResponse {
            version: self.0.features.version.to_owned(),
            ..Default::default()
        }))
    }
}

#[tonic::async_trait]
impl stream::Streaming for Containerd {
    type StreamStream = BoxStream<'static, Result<Any, Status>>;

    async fn stream(&self, request: Request<Streaming<Any>>) -> Result<Response<Self::StreamStream>, Status> {
        let lease =
            request.metadata().get("containerd-lease").map(|lease| lease.to_str().unwrap().to_owned());
        let mut incoming = request.into_inner();
        let init = incoming.message().await?;
        let init: streaming::StreamInit = decode(init, "containerd.services.streaming.v1.StreamInit");
        let (send, outgoing) = mpsc::channel(8);
        send.send(Ok(Any::default())).await.unwrap();
        // What no lease keeps is garbage, and collected at once.
        if lease.is_some_and(|lease| self.leases().contains(&lease)) {
            self.0.streams.lock().unwrap().insert(init.id, (send, incoming));
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

#[tonic::async_trait]
impl leases::Leases for Containerd {
    async fn create(
        &self,
        request: Request<lease::CreateRequest>,
    ) -> Result<Response<lease::CreateResponse>, Status> {
        namespace(&request);
        let request = request.into_inner();
        assert!(request.labels.contains_key("containerd.io/gc.expire"), "{request:?}");
        self.0.leases.lock().unwrap().insert(request.id);
        Ok(Response::new(lease::CreateResponse::default()))
    }

    async fn delete(&self, request: Request<lease::DeleteRequest>) -> Result<Response<()>, Status> {
        namespace(&request);
        self.0.leases.lock().unwrap().remove(&request.into_inner().id);
        Ok(Response::new(()))
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
        if store.unpacks[0].snapshotter == "unlisted" {
            let message = "unable to initialize unpacker: no unpack platforms defined: invalid argument";
            return Err(Status::invalid_argument(message));
        }
        let take = |id: &str| {
            self.0.streams.lock().unwrap().remove(id).ok_or_else(|| Status::not_found("not found"))
        };
        let (progress, _) = take(&request.options.unwrap().progress_stream)?;
        let event = Progress { event: "pulling".to_owned(), ..Default::default() };
        progress.send(Ok(encode(&event))).await.unwrap();

        let resolver = source.resolver.unwrap();
        let (ask, mut answers) = take(&resolver.auth_stream)?;
        ask.send(Ok(encode(&AuthRequest { host: "r.example".to_owned(), ..Default::default() })))
            .await
            .unwrap();
        let answer: AuthResponse = decode(answers.message().await?, "containerd.types.transfer.AuthResponse");

        let unpack = &store.unpacks[0];
        let os = &unpack.platform.as_ref().unwrap().os;
        self.see(format!(
            "transfer {namespace} {} {os} {} auth={:?} hosts={}",
            store.name, unpack.snapshotter, answer.auth_type, resolver.host_dir,
        ));
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl image_records::Images for Containerd {
    async fn get(
        &self,
        request: Request<image::GetImageRequest>,
    ) -> Result<Response<image::GetImageResponse>, Status> {
        namespace(&request);
        let target = Some(Descriptor { digest: "index".to_owned(), ..Default::default() });
        let image = image::Image { name: request.into_inner().name, target, ..Default::default() };
        Ok(Response::new(image::GetImageResponse { image: Some(image) }))
    }

    async fn list(
        &self,
        _: Request<image::ListImagesRequest>,
    ) -> Result<Response<image::ListImagesResponse>, Status> {
        Err(Status::unimplemented("a pull asks for its own image"))
    }
}

/// An index of two platforms, one of them fetched; its layer is lazy, and so not there.
#[tonic::async_trait]
impl contents::Content for Containerd {
    async fn info(
        &self,
        request: Request<content::InfoRequest>,
    ) -> Result<Response<content::InfoResponse>, Status> {
        namespace(&request);
        let snapshot = format!("gc.ref.snapshot.{}", self.0.snapshotter.lock().unwrap());
        let labels: &[(&str, &str)] = match request.into_inner().digest.as_str() {
            "index" => &[("gc.ref.content.m.0", "absent"), ("gc.ref.content.m.1", "manifest")],
            "manifest" => &[("gc.ref.content.config", "config"), ("gc.ref.content.l.0", "layer")],
            // A ring must not keep anyone busy.
            "config" => &[(&snapshot, CHAIN), ("gc.ref.content.m.0", "index")],
            "absent" => return Err(Status::not_found("content absent: not found")),
            other => panic!("{other} was asked for"),
        };
        let label = |&(key, value): &(&str, &str)| (format!("containerd.io/{key}"), value.to_owned());
        let labels = labels.iter().map(label).collect();
        let info = Some(content::Info { labels, ..Default::default() });
        Ok(Response::new(content::InfoResponse { info }))
    }

    async fn update(
        &self,
        _: Request<content::UpdateRequest>,
    ) -> Result<Response<content::UpdateResponse>, Status> {
        Err(Status::unimplemented("a pull changes no content"))
    }

    type ReadStream = BoxStream<'static, Result<content::ReadContentResponse, Status>>;

    async fn read(
        &self,
        _: Request<content::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("a pull reads no content"))
    }

    type WriteStream = BoxStream<'static, Result<content::WriteContentResponse, Status>>;

    async fn write(
        &self,
        _: Request<Streaming<content::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        Err(Status::unimplemented("a pull writes no content"))
    }

    async fn abort(&self, _: Request<content::AbortRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("a pull writes no content"))
    }
}

#[tonic::async_trait]
impl images::ImageService for Containerd {
    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let namespace = namespace(&request);
        let image = request.into_inner().image.unwrap().image;
        // Until somebody has looked at what is there, and looks again.
        while image.contains("slow") && self.0.looks.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        self.see(format!("cri {namespace} {image}"));
        if image.contains("starting") && self.0.looks.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(Status::unknown("server is not initialized yet"));
        }
        Ok(Response::new(cri::PullImageResponse::default()))
    }

    async fn image_status(
        &self,
        _: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
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
        self.0.looks.fetch_add(1, Ordering::Relaxed);
        let snapshots = self.0.held.lock().unwrap().clone();
        Ok(Response::new(status::GetResponse { snapshots, ..Default::default() }))
    }
}
