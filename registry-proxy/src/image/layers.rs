//! Which layers can be converted, and why others cannot.

use jaunt_formats::DiffId;
use jaunt_formats::media_type::{
    DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD,
};

use super::Layer;
use crate::error::Error;
use crate::manifest::Descriptor;

const CONVERTIBLE: [&str; 6] =
    [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD];

/// Why an image with this layer stays as it is.
pub fn obstacle(layer: &Descriptor) -> Option<String> {
    let (digest, media_type) = (layer.digest, layer.media_type.as_str());
    if media_type.ends_with("+encrypted") {
        return Some(format!("layer {digest} is encrypted"));
    }
    if media_type.contains(".foreign.") || media_type.contains(".nondistributable.") {
        return Some(format!("foreign layer {digest} may not be distributed"));
    }
    if layer.is_elsewhere() {
        return Some(format!("foreign layer {digest} is kept outside of the registry"));
    }
    let unknown = !CONVERTIBLE.contains(&media_type);
    unknown.then(|| format!("layer {digest} has unknown media type {media_type:?}"))
}

/// Pairs layers with the diffIDs of the config.
pub fn pair(layers: Vec<Descriptor>, diff_ids: &[String]) -> Result<Vec<Layer>, Error> {
    if layers.len() != diff_ids.len() {
        return Err(Error::LayerCount { layers: layers.len(), diff_ids: diff_ids.len() });
    }
    let pairs = layers.into_iter().zip(diff_ids).map(|(descriptor, diff_id)| {
        let diff_id = diff_id.parse().map_err(|source| Error::DiffId { source })?;
        Ok(Layer { descriptor, diff_id: DiffId(diff_id) })
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use jaunt_formats::Digest;

    use super::*;

    #[test]
    fn layers_that_cannot_be_converted_are_named() {
        let digest = Digest::of(b"layer");
        let layer = |media_type: &str| Descriptor::new(media_type, digest, 1);
        let elsewhere = Some(vec!["https://h.example/x".to_owned()]);
        for (layer, reason) in [
            (layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "may not be distributed"),
            (layer("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), "may not be distributed"),
            (Descriptor { urls: elsewhere, ..layer(OCI_LAYER_GZIP) }, "kept outside"),
            (layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "encrypted"),
            (layer("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd+encrypted"), "encrypted"),
            (layer("application/x-squashfs"), "unknown media type \"application/x-squashfs\""),
            (layer(""), "unknown media type \"\""),
        ] {
            let found = obstacle(&layer).unwrap();
            assert!(found.contains(reason) && found.contains(&digest.to_string()), "{found}");
        }
        let here = Descriptor { urls: Some(Vec::new()), ..layer(DOCKER_LAYER_GZIP) };
        assert_eq!(obstacle(&here), None);
    }
}
