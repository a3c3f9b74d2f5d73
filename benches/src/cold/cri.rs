//! The pull command: PullImage, as the kubelet sends it, the same for every system that is measured.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use jaunt_tests::error::{Error, Result};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};

use super::proto::runtime::v1::image_service_client::ImageServiceClient;
use super::proto::runtime::v1::{ImageSpec, PullImageRequest};

/// A pull that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(900);

/// Has the containerd at `socket` pull an image through CRI.
pub fn pull(runtime: &Runtime, socket: &Path, reference: &str) -> Result<()> {
    let failed = |error: String| Error::unexpected(format!("PullImage {reference}"), error);
    runtime.block_on(async {
        let channel = connect(socket.to_owned()).await.map_err(|error| failed(error.to_string()))?;
        let image = Some(ImageSpec { image: reference.to_owned() });
        let mut client = ImageServiceClient::new(channel);
        let pulled = client.pull_image(PullImageRequest { image, auth: None });
        match tokio::time::timeout(LIMIT, pulled).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(failed(status.message().to_owned())),
            Err(_) => Err(failed(format!("no answer within {} s", LIMIT.as_secs()))),
        }
    })
}

pub(crate) async fn connect(socket: PathBuf) -> std::result::Result<Channel, tonic::transport::Error> {
    // HTTP/2 wants an authority, which a socket has not.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
}
