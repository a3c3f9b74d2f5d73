//! gRPC over a Unix socket, from the calling side.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Nobody answers on a socket.
#[derive(Debug, thiserror::Error)]
#[error("not reachable at {socket}", socket = .socket.display())]
pub struct Unreachable {
    /// The socket.
    pub socket: PathBuf,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

/// Connects to the server that listens on `socket`.
pub async fn connect(socket: &Path) -> Result<Channel, Unreachable> {
    let unreachable = |source| Unreachable { socket: socket.to_owned(), source };
    // The transport wraps a failed connect in layers of its own; this gives the plain cause.
    drop(UnixStream::connect(socket).await.map_err(unreachable)?);
    let path = socket.to_owned();
    endpoint()
        .connect_with_connector(tower::service_fn(move |_: Uri| dial(path.clone())))
        .await
        .map_err(|error| unreachable(std::io::Error::other(error)))
}

/// A call in one of containerd's namespaces.
pub(crate) fn in_namespace<T>(message: T, namespace: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Ok(namespace) = namespace.parse() {
        request.metadata_mut().insert("containerd-namespace", namespace);
    }
    request
}

/// The same, connecting when there is something to say, and anew when the server has gone and come back.
pub fn lazy(socket: &Path) -> Channel {
    let path = socket.to_owned();
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_: Uri| dial(path.clone())))
}

/// HTTP/2 wants an authority, which a socket has not.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://localhost")
}

async fn dial(socket: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(socket).await.map(TokioIo::new)
}
