//! Pulling as the kubelet does.

use super::containerd::Containerd;
use super::{PullError, Request, credentials, in_namespace, refused};
use crate::proto::runtime::v1::image_service_client::ImageServiceClient;
use crate::proto::runtime::v1::{ImageSpec, ImageStatusRequest, PullImageRequest};

/// Pulls, and returns the image's chain ID, which finds its topmost snapshot. CRI tells nothing until it is
/// done.
pub(super) async fn pull(containerd: &Containerd, request: &Request) -> Result<Option<String>, PullError> {
    println!("pulling {} through containerd's CRI", request.image);
    let auth = credentials::find(request.image.host()).await;
    let image = Some(ImageSpec { image: request.image.to_string() });
    let mut client = ImageServiceClient::new(containerd.channel.clone());
    let pull = in_namespace(PullImageRequest { image: image.clone(), auth }, &request.namespace);
    client.pull_image(pull).await.map_err(refused(&request.address, "pull"))?;
    let ask = in_namespace(ImageStatusRequest { image, verbose: true }, &request.namespace);
    let status = client.image_status(ask).await.map_err(refused(&request.address, "describe the image"))?;
    Ok(status.into_inner().info.get("info").and_then(|info| chain_id(info)))
}

/// What a verbose answer says beyond the interface, in JSON.
fn chain_id(info: &str) -> Option<String> {
    let info: serde_json::Value = serde_json::from_str(info).ok()?;
    Some(info.get("chainID")?.as_str()?.to_owned())
}
