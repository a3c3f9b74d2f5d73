//! The launch index of an image, out of its converted layers.

use jaunt_formats::DigestScope;
use jaunt_formats::launch::{self, Blob, Compression, LaunchLayer};
use jaunt_formats::tree::TreeBuilder;

use crate::error::Error;
use crate::pipeline::Processed;

/// Writes the index of layers given bottom to top, ready to be pushed.
pub fn build(layers: &[&Processed]) -> Result<Vec<u8>, Error> {
    let mut tree = TreeBuilder::new();
    layers.iter().try_for_each(|layer| tree.push_log(&layer.layer.entries))?;
    let layers: Vec<_> = layers.iter().map(|layer| launch_layer(layer)).collect();
    let index = launch::write(&layers, tree.finish())?;
    Ok(launch::pack(&index)?)
}

/// What a launch index says of a converted layer.
pub fn launch_layer(processed: &Processed) -> LaunchLayer {
    let (original, layer) = (processed.original, &processed.layer);
    LaunchLayer {
        diff_id: layer.diff_id,
        original: Blob { digest: original.digest, len: original.len, compression: processed.compression },
        converted: Blob { digest: layer.digest, len: layer.len, compression: Compression::Zstd },
        tar_len: layer.tar_len,
        scope: DigestScope::Compressed,
        spans: layer.spans.clone(),
    }
}
