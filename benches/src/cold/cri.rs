//! The pull command: PullImage, as the kubelet sends it, the same for every system that is measured.

use std::path::Path;
use std::time::Duration;

use jaunt_tests::cri::api::PullImageRequest;
use jaunt_tests::cri::api::image_service_client::ImageServiceClient;
use jaunt_tests::cri::{channel, spec};
use jaunt_tests::error::{Error, Result};
use tokio::runtime::Runtime;

/// A pull that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(900);

/// Has the containerd at `socket` pull an image through CRI.
pub fn pull(runtime: &Runtime, socket: &Path, reference: &str) -> Result<()> {
    let failed = |error: String| Error::unexpected(format!("PullImage {reference}"), error);
    runtime.block_on(async {
        let channel = channel(socket).await.map_err(|error| failed(error.to_string()))?;
        let request = PullImageRequest { image: Some(spec(reference)), sandbox_config: None };
        let mut client = ImageServiceClient::new(channel);
        let pulled = client.pull_image(request);
        match tokio::time::timeout(LIMIT, pulled).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(failed(status.message().to_owned())),
            Err(_) => Err(failed(format!("no answer within {} s", LIMIT.as_secs()))),
        }
    })
}
