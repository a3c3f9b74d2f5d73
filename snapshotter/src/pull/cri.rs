//! Pulling as the kubelet does.

use super::containerd::Containerd;
use super::{PullError, Request, credentials, in_namespace, refused};
use crate::proto::runtime::v1::image_service_client::ImageServiceClient;
use crate::proto::runtime::v1::{ImageSpec, PullImageRequest};

/// CRI tells nothing until it is done.
pub(super) async fn pull(containerd: &Containerd, request: &Request) -> Result<(), PullError> {
    println!("pulling {} through containerd's CRI", request.image);
    let auth = credentials::find(request.image.host()).await;
    let message = PullImageRequest { image: Some(ImageSpec { image: request.image.to_string() }), auth };
    ImageServiceClient::new(containerd.channel.clone())
        .pull_image(in_namespace(message, &request.namespace))
        .await
        .map_err(refused(&request.address, "pull"))?;
    Ok(())
}
