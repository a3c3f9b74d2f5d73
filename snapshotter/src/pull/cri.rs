//! Pulling as the kubelet does. CRI tells nothing until it is done, so the daemon is asked meanwhile which layers there are.

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use tonic::Status;
use tonic::transport::Channel;

use super::containerd::Containerd;
use super::{PullError, Request, credentials, in_namespace, refused};
use crate::proto::runtime::v1::image_service_client::ImageServiceClient;
use crate::proto::runtime::v1::{ImageSpec, PullImageRequest};
use crate::{status, unix_channel};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);
/// What containerd's CRI says until it is there. It has no code of its own.
const STARTING: &str = "server is not initialized yet";
const STARTS_WITHIN: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(50);

/// Pulls and unpacks; `socket` is the daemon's.
pub(super) async fn pull(containerd: &Containerd, request: &Request, socket: &Path) -> Result<(), PullError> {
    let auth = credentials::find(request.image.host(), &request.image).await;
    let image = Some(ImageSpec { image: request.image.to_string() });
    let (address, channel) = match &request.cri_address {
        None => (&request.address, containerd.channel.clone()),
        Some(address) => (address, unix_channel::connect(address).await.map_err(PullError::CriUnreachable)?),
    };
    let pull = PullImageRequest { image, auth };
    tokio::select! {
        pulled = once_it_runs(ImageServiceClient::new(channel), &pull, &request.namespace) => {
            pulled.map_err(refused(address, "pull"))
        }
        never = watch(request, socket) => match never {},
    }
}

/// Sends it until it is taken: containerd answers for a moment before this part of it is there.
async fn once_it_runs(
    mut client: ImageServiceClient<Channel>,
    pull: &PullImageRequest,
    namespace: &str,
) -> Result<(), Status> {
    let begun = Instant::now();
    loop {
        match client.pull_image(in_namespace(pull.clone(), namespace)).await {
            Err(status) if status.message().contains(STARTING) && begun.elapsed() < STARTS_WITHIN => {
                tokio::time::sleep(AGAIN).await;
            }
            pulled => return pulled.map(drop),
        }
    }
}

/// Tells of layers as they come. Those that another image has brought already are not among them.
async fn watch(request: &Request, socket: &Path) -> Infallible {
    let name = request.image.to_string();
    let mut told = (0, 0);
    loop {
        tokio::time::sleep(EVERY).await;
        // Without an answer there is nothing to tell, and the pull itself will say what is wrong.
        let Ok(status) = status::fetch(socket).await else { continue };
        let image = status::images(&status).into_iter().find(|image| image.name == name);
        let Some(now) = image.map(|image| (image.layers, image.lazy)).filter(|now| *now != told) else {
            continue;
        };
        (request.progress)(&format!("{} layers are there, {} of them lazy", now.0, now.1));
        told = now;
    }
}
