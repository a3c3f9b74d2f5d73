//! The launch artifact's manifest, as far as a node reads it.

use std::collections::BTreeMap;

use jaunt_formats::{Digest, media_type};
use jaunt_layerfs::boot::NamedPack;
use serde::Deserialize;

/// What a launch artifact names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Artifact {
    /// Its own digest: what a signature of it covers.
    pub digest: Digest,
    /// The launch index.
    pub index: Blob,
    /// The converted layers, each once.
    pub converted: Vec<Digest>,
    /// The boot pack, if there is one that can be read.
    pub boot: Option<NamedPack>,
}

/// A blob by digest and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub digest: Digest,
    pub len: u64,
}

/// Why a manifest is not the launch artifact of an image.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArtifactError {
    #[error("not a manifest")]
    Json(#[from] serde_json::Error),
    #[error("artifact type is {0:?}, not {expected:?}", expected = media_type::LAUNCH_ARTIFACT)]
    Type(String),
    #[error("its subject is {0}, another image")]
    Subject(String),
    #[error("its first layer is {0:?}, not a launch index")]
    NoIndex(String),
    #[error("it names {0} layers, more than {LAYERS_MAX}")]
    TooManyLayers(usize),
}

/// overlayfs takes 500 layers, images have 127 at most.
const LAYERS_MAX: usize = 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    artifact_type: String,
    subject: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads a manifest that claims to be the launch artifact of `subject`.
pub(super) fn parse(manifest: &[u8], subject: &Digest) -> Result<Artifact, ArtifactError> {
    let digest = Digest::of(manifest);
    let manifest: Manifest = serde_json::from_slice(manifest)?;
    if manifest.artifact_type != media_type::LAUNCH_ARTIFACT {
        return Err(ArtifactError::Type(manifest.artifact_type));
    }
    match manifest.subject {
        Some(descriptor) if descriptor.digest == *subject => {}
        other => {
            let actual = other.map_or_else(|| "absent".to_owned(), |other| other.digest.to_string());
            return Err(ArtifactError::Subject(actual));
        }
    }
    if manifest.layers.len() > LAYERS_MAX {
        return Err(ArtifactError::TooManyLayers(manifest.layers.len()));
    }
    let index = match manifest.layers.first() {
        Some(first) if first.media_type == media_type::LAUNCH_INDEX => {
            Blob { digest: first.digest, len: first.size }
        }
        other => {
            return Err(ArtifactError::NoIndex(other.map_or_else(String::new, |d| d.media_type.clone())));
        }
    };
    let mut converted: Vec<Digest> = manifest
        .layers
        .iter()
        .filter(|layer| layer.media_type == media_type::OCI_LAYER_ZSTD)
        .map(|layer| layer.digest)
        .collect();
    converted.sort_unstable();
    converted.dedup();
    let boot = manifest.layers.iter().find_map(named_pack);
    Ok(Artifact { digest, index, converted, boot })
}

/// A pack whose descriptor does not vouch for its table is passed over: an image starts without one.
fn named_pack(layer: &Descriptor) -> Option<NamedPack> {
    if layer.media_type != media_type::LAUNCH_BOOT_PACK {
        return None;
    }
    let annotations = layer.annotations.as_ref()?;
    let table = annotations.get(media_type::BOOT_TABLE)?.parse().ok()?;
    let learnt = annotations.get(media_type::BOOT_TRACES).is_some_and(|traces| !traces.is_empty());
    Some(NamedPack { digest: layer.digest, len: layer.size, table, learnt })
}

#[cfg(test)]
mod tests {
    use jaunt_formats::boot::TablePlace;
    use serde_json::json;

    use super::*;

    #[test]
    fn takes_the_artifact_of_this_image_only() {
        let (image, index, layer) = (Digest::of(b"image"), Digest::of(b"index"), Digest::of(b"layer"));
        let manifest = json!({
            "schemaVersion": 2,
            "artifactType": media_type::LAUNCH_ARTIFACT,
            "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": image, "size": 1},
            "config": {"mediaType": media_type::OCI_EMPTY, "digest": image, "size": 2},
            "layers": [
                {"mediaType": media_type::LAUNCH_INDEX, "digest": index, "size": 7},
                {"mediaType": media_type::OCI_LAYER_ZSTD, "digest": layer, "size": 8},
                {"mediaType": media_type::OCI_LAYER_ZSTD, "digest": layer, "size": 8},
            ],
        });
        let parsed = parse(manifest.to_string().as_bytes(), &image).unwrap();
        let digest = Digest::of(manifest.to_string().as_bytes());
        let index_blob = Blob { digest: index, len: 7 };
        assert_eq!(parsed, Artifact { digest, index: index_blob, converted: vec![layer], boot: None });
        let table = TablePlace::of(&[0; 64]);
        let mut packed = manifest.clone();
        packed["layers"][1] = json!({"mediaType": media_type::LAUNCH_BOOT_PACK, "digest": layer, "size": 9,
            "annotations": {media_type::BOOT_TABLE: table.to_string()}});
        let parsed = parse(packed.to_string().as_bytes(), &image).unwrap();
        assert_eq!(parsed.boot, Some(NamedPack { digest: layer, len: 9, table, learnt: false }));
        packed["layers"][1]["annotations"] = json!({});
        assert_eq!(parse(packed.to_string().as_bytes(), &image).unwrap().boot, None);
        let error = |manifest: &serde_json::Value, subject| {
            parse(manifest.to_string().as_bytes(), subject).unwrap_err().to_string()
        };
        assert!(error(&manifest, &index).contains("another image"));
        for (pointer, value, what) in [
            ("/artifactType", json!("x"), "artifact type"),
            ("/subject", json!(null), "absent"),
            ("/layers", json!([]), "not a launch index"),
            ("/layers/0/digest", json!("sha256:zz"), "not a manifest"),
            ("/layers/0/size", json!(-1), "not a manifest"),
        ] {
            let mut hostile = manifest.clone();
            *hostile.pointer_mut(pointer).unwrap() = value;
            assert!(error(&hostile, &image).contains(what), "{pointer}");
        }
    }
}
