//! containerd's CRI plugin, spoken to as the kubelet does: pods and their containers, images and what they occupy.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::{Error, Result};
use crate::scratch::Scratch;
use api::image_service_client::ImageServiceClient;
use api::runtime_service_client::RuntimeServiceClient;

/// Generated from `proto/`.
#[allow(missing_docs, clippy::all, rust_2018_idioms)]
pub mod api {
    tonic::include_proto!("runtime.v1");
}

/// Ids of a user namespace: container's root is this on the machine, and so on, so many.
pub const MAPPED: (u32, u32) = (1_000_000, 65_536);

/// A connection to a CRI plugin.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
    name: String,
    /// Pods so far: their names differ.
    pods: Cell<u32>,
    sandboxes: std::cell::RefCell<BTreeSet<String>>,
}

/// A pod that runs.
#[derive(Debug)]
pub struct Sandbox {
    /// Its ID.
    pub id: String,
    config: api::PodSandboxConfig,
}

/// A gRPC connection to what listens on `socket`.
pub async fn channel(socket: &Path) -> std::result::Result<Channel, tonic::transport::Error> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // HTTP/2 wants an authority, which a socket has not.
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

/// An image, as requests name it.
pub fn spec(reference: &str) -> api::ImageSpec {
    api::ImageSpec { image: reference.to_owned() }
}

impl Cri {
    /// Connects to the containerd that listens on `socket`.
    pub fn connect(scratch: &Scratch, socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let failed = |error: &dyn std::error::Error| Error::unexpected("CRI", error.to_string());
        let runtime = runtime.map_err(|error| failed(&error))?;
        let channel = runtime.block_on(channel(socket)).map_err(|error| failed(&error))?;
        let (pods, sandboxes) = (Cell::new(0), std::cell::RefCell::default());
        Ok(Self { runtime, channel, name: scratch.name().to_owned(), pods, sandboxes })
    }

    /// PullImage; the image's ID.
    pub fn pull(&self, reference: &str) -> Result<String> {
        let request = api::PullImageRequest { image: Some(spec(reference)), sandbox_config: None };
        Ok(self.call("PullImage", self.images().pull_image(request))?.image_ref)
    }

    /// ImageStatus; `None` where there is no such image.
    pub fn image(&self, reference: &str) -> Result<Option<api::Image>> {
        let request = api::ImageStatusRequest { image: Some(spec(reference)) };
        Ok(self.call("ImageStatus", self.images().image_status(request))?.image)
    }

    /// RemoveImage, as the kubelet's image collection does it.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        let request = api::RemoveImageRequest { image: Some(spec(reference)) };
        self.call("RemoveImage", self.images().remove_image(request)).map(drop)
    }

    /// ImageFsInfo: bytes and inodes of the first file system.
    pub fn image_fs(&self) -> Result<(String, u64, u64)> {
        let info = self.call("ImageFsInfo", self.images().image_fs_info(api::ImageFsInfoRequest {}))?;
        let first = info.image_filesystems.into_iter().next();
        let first = first.ok_or_else(|| Error::unexpected("ImageFsInfo", "no file system"))?;
        let value = |value: Option<api::UInt64Value>| value.map_or(0, |value| value.value);
        let point = first.fs_id.map(|id| id.mountpoint).unwrap_or_default();
        Ok((point, value(first.used_bytes), value(first.inodes_used)))
    }

    /// RunPodSandbox: a pod in the machine's network, or one in a user namespace (and so in a network of its own).
    pub fn run_pod(&self, user_namespace: bool) -> Result<Sandbox> {
        let number = self.pods.replace(self.pods.get() + 1);
        let name = format!("{}-{number}", self.name);
        let metadata = api::PodSandboxMetadata {
            name: name.clone(),
            uid: name.clone(),
            namespace: "default".to_owned(),
            attempt: 0,
        };
        let context =
            api::LinuxSandboxSecurityContext { namespace_options: Some(namespaces(user_namespace)) };
        let config = api::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: if user_namespace { "pod".to_owned() } else { String::new() },
            log_directory: String::new(),
            linux: Some(api::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", self.name),
                security_context: Some(context),
            }),
        };
        let request =
            api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = self.call("RunPodSandbox", self.containers().run_pod_sandbox(request))?.pod_sandbox_id;
        self.sandboxes.borrow_mut().insert(id.clone());
        Ok(Sandbox { id, config })
    }

    /// CreateContainer and StartContainer; the container's ID.
    pub fn run(&self, pod: &Sandbox, name: &str, reference: &str, command: &[&str]) -> Result<String> {
        let namespaces = pod.config.linux.clone().and_then(|linux| linux.security_context);
        let context = api::LinuxContainerSecurityContext {
            namespace_options: namespaces.and_then(|context| context.namespace_options),
        };
        let config = api::ContainerConfig {
            metadata: Some(api::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(spec(reference)),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            linux: Some(api::LinuxContainerConfig { security_context: Some(context) }),
            ..api::ContainerConfig::default()
        };
        let request = api::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let id = self.call("CreateContainer", self.containers().create_container(request))?.container_id;
        let request = api::StartContainerRequest { container_id: id.clone() };
        self.call("StartContainer", self.containers().start_container(request))?;
        Ok(id)
    }

    /// ExecSync: what a command that ends well prints.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<String> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = api::ExecSyncRequest { container_id: container.to_owned(), cmd, timeout: 60 };
        let said = self.call("ExecSync", self.containers().exec_sync(request))?;
        match said.exit_code {
            0 => Ok(String::from_utf8_lossy(&said.stdout).into_owned()),
            code => {
                let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
                Err(Error::unexpected(command.join(" "), format!("exit code {code}: {stderr}")))
            }
        }
    }

    /// StopPodSandbox and RemovePodSandbox: containers go with their pod.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        let request = api::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("StopPodSandbox", self.containers().stop_pod_sandbox(request))?;
        let request = api::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("RemovePodSandbox", self.containers().remove_pod_sandbox(request))?;
        self.sandboxes.borrow_mut().remove(id);
        Ok(())
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    fn containers(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        let answer = self.runtime.block_on(call);
        answer.map(tonic::Response::into_inner).map_err(|status| Error::unexpected(what, status.message()))
    }
}

/// Pods that a test leaves are removed while containerd still runs.
impl Drop for Cri {
    fn drop(&mut self) {
        let left = std::mem::take(&mut *self.sandboxes.borrow_mut());
        for id in left {
            if let Err(error) = self.remove_pod(&id) {
                eprintln!("removing pod {id}: {error}");
            }
        }
    }
}

fn namespaces(user_namespace: bool) -> api::NamespaceOption {
    let (host_id, length) = MAPPED;
    let ids = vec![api::IdMapping { host_id, container_id: 0, length }];
    let users = api::UserNamespace { mode: api::NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids };
    let network = if user_namespace { api::NamespaceMode::Pod } else { api::NamespaceMode::Node };
    api::NamespaceOption {
        network: network.into(),
        userns_options: user_namespace.then_some(users),
        ..api::NamespaceOption::default()
    }
}
