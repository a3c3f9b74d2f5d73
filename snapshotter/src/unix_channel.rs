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
    // HTTP/2 wants an authority, which a socket has not.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
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
