//! Which snapshot an image was unpacked to, as containerd itself has it on record.
//!
//! containerd keeps what an image needs from being collected by labels on its blobs: each names its
//! children, and the configuration names the topmost snapshot of every snapshotter that has one.

use std::collections::{BTreeSet, VecDeque};

use tonic::Code;

use super::containerd::Containerd;
use super::{PullError, Request, in_namespace, refused};
use crate::proto::containerd::services::content::v1::InfoRequest;
use crate::proto::containerd::services::content::v1::content_client::ContentClient;
use crate::proto::containerd::services::images::v1::GetImageRequest;
use crate::proto::containerd::services::images::v1::images_client::ImagesClient;

const CHILD: &str = "containerd.io/gc.ref.content.";
/// Among the children, layers: they have none of their own, and a lazy one is not even there.
const LAYER: &str = "containerd.io/gc.ref.content.l.";
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
/// Blobs looked at: an index, and manifest and configuration of more platforms than there are.
const MAX_BLOBS: usize = 256;

/// The chain ID of the image's topmost snapshot; none where the snapshotter has not got the image.
pub(super) async fn of_image(
    containerd: &Containerd,
    request: &Request,
) -> Result<Option<String>, PullError> {
    let channel = || containerd.channel.clone();
    let failed = || refused(&request.address, "find the image's snapshots");
    let get = GetImageRequest { name: request.image.to_string() };
    let image = ImagesClient::new(channel()).get(in_namespace(get, &request.namespace)).await;
    let target = image.map_err(failed())?.into_inner().image.and_then(|image| image.target);

    let mut content = ContentClient::new(channel());
    let snapshot = format!("{SNAPSHOT}{}", request.snapshotter);
    let mut seen = BTreeSet::new();
    let mut blobs: VecDeque<String> = target.map(|target| target.digest).into_iter().collect();
    while let Some(digest) = blobs.pop_front() {
        if seen.len() == MAX_BLOBS || !seen.insert(digest.clone()) {
            continue;
        }
        let info = match content.info(in_namespace(InfoRequest { digest }, &request.namespace)).await {
            Ok(info) => info.into_inner().info.unwrap_or_default(),
            // Of an index, containerd fetches this machine's platform.
            Err(status) if status.code() == Code::NotFound => continue,
            Err(status) => return Err(failed()(status)),
        };
        if let Some(chain) = info.labels.get(&snapshot) {
            return Ok(Some(chain.clone()));
        }
        let children = info.labels.into_iter().filter(|(label, _)| is_child(label));
        blobs.extend(children.map(|(_, digest)| digest));
    }
    Ok(None)
}

fn is_child(label: &str) -> bool {
    label.starts_with(CHILD) && !label.starts_with(LAYER)
}
