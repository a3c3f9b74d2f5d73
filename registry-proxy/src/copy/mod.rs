//! `copy`: an image, or an index with all its images, to another place, bit for bit, and with it all that
//! refers to it.
//!
//! What refers to a manifest is found in three ways: the referrers API, its fallback tag, and tags made of the
//! manifest's digest: `sha256-<hex>.jaunt`, and cosign's `.sig`, `.att` and `.sbom`. Referrers have referrers.
//!
//! Whatever a manifest names goes before it, what refers to it after it, the tag last. So a copy that was
//! interrupted can be repeated, and a tag never names what is not there.

pub mod blobs;
mod graph;

use jaunt_distribution::Client;
use serde_json::json;

use crate::cli::CopyArgs;
use crate::console::{Console, bytes};
use crate::error::Error;
use crate::image::ACCEPT;
use crate::place::{ImageName, Place};
use crate::tag;
pub use graph::Copied;
use graph::Graph;

/// Runs the command.
pub async fn run(client: Client, args: &CopyArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let (from, to) = (&args.common.reference, &args.to);
    let copied = copy(&client, from, to, &console).await?;
    console.result(&json!({
        "from": from.to_string(),
        "reference": to.to_string(),
        "manifest": copied.top,
        "manifests": copied.manifests,
        "referrers": copied.referrers.iter().map(|referrer| json!({
            "digest": referrer.digest,
            "artifact_type": referrer.artifact_type,
        })).collect::<Vec<_>>(),
        "tags": copied.tags,
        "left_alone": copied.left_alone,
        "missing": copied.missing,
        "bytes_moved": copied.bytes,
    }))
}

/// Copies what `from` names to `to`, and what refers to it.
pub async fn copy(
    client: &Client,
    from: &ImageName,
    to: &ImageName,
    console: &Console,
) -> Result<Copied, Error> {
    let (source, target) = (Place::of(client, from), Place::of(client, to));
    let then = tag::current(&target, to).await?;
    let top = source.manifest(&from.manifest_name(), &ACCEPT).await?;
    let mut graph = Graph::new(&source, &target, top.digest);
    if !source.is_same(&target) {
        graph.copy(top.clone()).await?;
    }
    let copied = graph.finish();
    if then != Some(top.digest) {
        tag::move_to(&target, to, then, &top.media_type, top.bytes).await?;
    }
    for missing in &copied.missing {
        console.line(&format!("not copied: {missing}"));
    }
    for tag in &copied.left_alone {
        console.line(&format!("left alone: tag {tag} names something else there"));
    }
    let (referrers, moved) = (copied.referrers.len(), bytes(copied.bytes));
    console.line(&format!("copied {from} to {to}: {}, {referrers} referrers, {moved} moved", copied.top));
    Ok(copied)
}
