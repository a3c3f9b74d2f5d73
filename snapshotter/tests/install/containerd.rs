//! As much of a containerd as `install` asks: whether it has the snapshotter, and reaches the daemon by it.

use std::fs;
use std::path::PathBuf;

use axum::routing::post;
use jaunt_snapshotter::proto::containerd::services::introspection::v1 as introspection;
use jaunt_snapshotter::proto::containerd::services::introspection::v1::introspection_server as introspect;
use jaunt_snapshotter::proto::google::rpc;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::{CONFIG, Machine};

const LIST: &str = "/containerd.services.snapshots.v1.Snapshots/List";

/// What it does with its configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// It has what the file says.
    TheFile,
    /// It reads another one.
    Another,
    /// It fails at what the file says.
    InVain,
}

/// Answers on the machine's socket until it is dropped.
pub struct Containerd(#[expect(dead_code, reason = "its end is the server's")] Runtime);

impl Containerd {
    pub fn of(machine: &Machine, reads: Reads) -> Self {
        let socket = machine.at("run/containerd/containerd.sock");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let plugins = introspect::IntrospectionServer::new(Plugins { config: machine.at(CONFIG), reads });
        // No snapshots: trailers alone.
        let nothing = || async { [("content-type", "application/grpc"), ("grpc-status", "0")] };
        let router = Routes::new(plugins).into_axum_router().route(LIST, post(nothing));
        let listener = runtime.block_on(async { UnixListener::bind(socket).unwrap() });
        let server = tonic::transport::Server::builder().add_routes(Routes::from(router));
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Self(runtime)
    }
}

struct Plugins {
    config: PathBuf,
    reads: Reads,
}

#[tonic::async_trait]
impl introspect::Introspection for Plugins {
    async fn plugins(
        &self,
        _: Request<introspection::PluginsRequest>,
    ) -> Result<Response<introspection::PluginsResponse>, Status> {
        let plugin = |id: &str, why: Option<&str>| introspection::Plugin {
            r#type: "io.containerd.snapshotter.v1".to_owned(),
            id: id.to_owned(),
            init_err: why.map(|why| rpc::Status { code: 2, message: why.to_owned() }),
            ..Default::default()
        };
        let mut plugins = vec![plugin("overlayfs", None)];
        let is_named = fs::read_to_string(&self.config).unwrap().contains("[proxy_plugins.jaunt]");
        if is_named && self.reads != Reads::Another {
            plugins.push(plugin("jaunt", (self.reads == Reads::InVain).then_some("dial failed")));
        }
        Ok(Response::new(introspection::PluginsResponse { plugins }))
    }
}
