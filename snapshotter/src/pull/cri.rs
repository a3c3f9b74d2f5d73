//! Pulling as the kubelet does. CRI tells nothing until it is done.

use super::containerd::Containerd;
use super::{PullError, Request, credentials, in_namespace, refused};
use crate::proto::runtime::v1::image_service_client::ImageServiceClient;
use crate::proto::runtime::v1::{ImageSpec, PullImageRequest};
use crate::unix_channel;

/// Pulls and unpacks.
pub(super) async fn pull(containerd: &Containerd, request: &Request) -> Result<(), PullError> {
    let auth = credentials::find(request.image.host(), &request.image).await;
    let image = Some(ImageSpec { image: request.image.to_string() });
    let pull = in_namespace(PullImageRequest { image, auth }, &request.namespace);
    let (address, channel) = match &request.cri_address {
        None => (&request.address, containerd.channel.clone()),
        Some(address) => (address, unix_channel::connect(address).await.map_err(PullError::CriUnreachable)?),
    };
    let mut client = ImageServiceClient::new(channel);
    client.pull_image(pull).await.map(drop).map_err(refused(address, "pull"))
}
