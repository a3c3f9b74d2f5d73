//! Pulling as the kubelet does. CRI tells nothing until it is done.

use super::containerd::Containerd;
use super::{PullError, Request, credentials, in_namespace, refused};
use crate::proto::runtime::v1::image_service_client::ImageServiceClient;
use crate::proto::runtime::v1::{ImageSpec, PullImageRequest};

/// Pulls and unpacks.
pub(super) async fn pull(containerd: &Containerd, request: &Request) -> Result<(), PullError> {
    let auth = credentials::find(request.image.host(), &request.image).await;
    let image = Some(ImageSpec { image: request.image.to_string() });
    let pull = in_namespace(PullImageRequest { image, auth }, &request.namespace);
    let mut client = ImageServiceClient::new(containerd.channel.clone());
    client.pull_image(pull).await.map(drop).map_err(refused(&request.address, "pull"))
}
