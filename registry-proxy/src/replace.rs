//! Replace mode: a manifest whose layers are the converted ones, in place of the image's own.
//!
//! ```text
//! tag -> index' (-> index') -> manifest' -> config (the same), converted layers
//!                  manifest' annotations: dev.jaunt.original-manifest, dev.jaunt.launch-index
//! sha256-<manifest' hex>.jaunt -> launch artifact -> launch index, converted layers
//! sha256-<original hex>.original -> the original index or manifest
//! ```
//!
//! What is not understood is carried along: documents are changed, not made anew. The config is the same,
//! so the image ID is. The launch artifact names the manifest as its subject, so the manifest cannot name
//! the artifact; it names the launch index, and with that its digest covers all that a node reads.

use std::collections::HashMap;

use bytes::Bytes;
use jaunt_distribution::Manifest;
use jaunt_formats::Digest;
use jaunt_formats::media_type::{
    DOCKER_CONFIG, LAUNCH_INDEX_DIGEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_ZSTD, OCI_MANIFEST,
    ORIGINAL_MANIFEST,
};
use serde_json::{Map, Value};

use crate::artifact::Artifact;
use crate::error::Error;
use crate::image::Image;
use crate::manifest::{self, Descriptor};

/// BuildKit's attestations name the manifest they speak of in this annotation of their entry in an index.
const ATTESTED: &str = "vnd.docker.reference.digest";
/// What a layer's annotations say of its old bytes. podman refuses a layer with eStargz's TOC and its own.
const OF_OLD_BYTES: [&str; 2] = ["io.github.containers.zstd-chunked.", "containerd.io/snapshot/"];

/// A new document, and what names it.
pub struct Replacement {
    pub descriptor: Descriptor,
    pub bytes: Bytes,
}

impl Replacement {
    fn new(media_type: &str, document: &Value) -> Result<Self, Error> {
        let (digest, bytes) = manifest::encode(document)?;
        Ok(Self { descriptor: Descriptor::new(media_type, digest, bytes.len() as u64), bytes })
    }
}

/// The tag that keeps an original.
pub fn original_tag(original: &Digest) -> String {
    format!("sha256-{}.original", original.hex())
}

/// The manifest of `image` with the layers that `artifact` has for it.
pub fn manifest(image: &Image, artifact: &Artifact) -> Result<Replacement, Error> {
    let original = image.descriptor.digest;
    let malformed = || Error::Artifact {
        artifact: artifact.digest,
        what: "it does not fit the manifest of its image".to_owned(),
    };
    let mut document: Value = manifest::parse("manifest", original, &image.manifest)?;
    let fields = document.as_object_mut().ok_or_else(malformed)?;
    fields.insert("mediaType".to_owned(), OCI_MANIFEST.into());
    if let Some(config) = fields.get_mut("config").filter(|config| config["mediaType"] == DOCKER_CONFIG) {
        config["mediaType"] = OCI_CONFIG.into();
    }
    let layers = fields.get_mut("layers").and_then(Value::as_array_mut).ok_or_else(malformed)?;
    for (layer, named) in layers.iter_mut().zip(&image.layers) {
        let converted = artifact.converted(named).ok_or_else(malformed)?;
        replace_layer(layer.as_object_mut().ok_or_else(malformed)?, converted);
    }
    annotate(fields, ORIGINAL_MANIFEST, &original);
    annotate(fields, LAUNCH_INDEX_DIGEST, &artifact.index.digest);
    Replacement::new(OCI_MANIFEST, &document)
}

fn replace_layer(layer: &mut Map<String, Value>, converted: &Descriptor) {
    point(layer, OCI_LAYER_ZSTD, converted);
    let annotations = annotations(layer);
    annotations.retain(|key, _| !OF_OLD_BYTES.iter().any(|prefix| key.starts_with(prefix)));
    let new = converted.annotations.iter().flatten();
    annotations.extend(new.map(|(key, value)| (key.clone(), value.as_str().into())));
}

/// An index whose entries name the replacements, by the digest of what each replaces; `None` if it names
/// nothing that is replaced.
pub fn index(
    index: &Manifest,
    replacements: &HashMap<Digest, Descriptor>,
) -> Result<Option<Replacement>, Error> {
    let mut fields: Map<String, Value> = manifest::parse("index", index.digest, &index.bytes)?;
    if !rewrite_entries(&mut fields, replacements) {
        return Ok(None);
    }
    fields.insert("mediaType".to_owned(), OCI_INDEX.into());
    // Of an index replaced in part before, the first original stays the original.
    if !annotations(&mut fields).contains_key(ORIGINAL_MANIFEST) {
        annotate(&mut fields, ORIGINAL_MANIFEST, &index.digest);
    }
    Replacement::new(OCI_INDEX, &fields.into()).map(Some)
}

/// Whether anything was rewritten.
fn rewrite_entries(fields: &mut Map<String, Value>, replacements: &HashMap<Digest, Descriptor>) -> bool {
    let mut rewritten = false;
    let replacement = |digest: Option<&Value>| {
        let digest: Digest = digest?.as_str()?.parse().ok()?;
        replacements.get(&digest)
    };
    let entries = fields.get_mut("manifests").and_then(Value::as_array_mut).into_iter().flatten();
    for entry in entries.filter_map(Value::as_object_mut) {
        if let Some(new) = replacement(entry.get("digest")) {
            point(entry, &new.media_type, new);
            rewritten = true;
        }
        if let Some(attested) = entry.get_mut("annotations").and_then(|all| all.get_mut(ATTESTED))
            && let Some(new) = replacement(Some(attested))
        {
            *attested = new.digest.to_string().into();
            rewritten = true;
        }
    }
    rewritten
}

/// Points a descriptor elsewhere. A copy of the old bytes within it, or other places of them, go.
fn point(descriptor: &mut Map<String, Value>, media_type: &str, to: &Descriptor) {
    descriptor.insert("mediaType".to_owned(), media_type.into());
    descriptor.insert("digest".to_owned(), to.digest.to_string().into());
    descriptor.insert("size".to_owned(), to.size.into());
    descriptor.remove("data");
    descriptor.remove("urls");
}

fn annotate(fields: &mut Map<String, Value>, key: &str, digest: &Digest) {
    annotations(fields).insert(key.to_owned(), digest.to_string().into());
}

/// The annotations, which some documents state as `null`.
fn annotations(fields: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let slot = fields.entry("annotations").or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Map::new().into();
    }
    match slot {
        Value::Object(annotations) => annotations,
        _ => unreachable!("made an object just above"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_index_names_replacements_and_keeps_all_else() {
        let [old, new, other, attestation] = [b"o", b"n", b"x", b"a"].map(|text| Digest::of(text));
        let entry = |digest: &Digest| json!({ "mediaType": "m", "digest": digest, "size": 1, "platform": { "os.version": "1" } });
        let attested = |digest: &Digest| json!({ "digest": attestation, "size": 2, "annotations": { ATTESTED: digest, "a": "b" } });
        let before =
            json!({ "mediaType": "list", "manifests": [entry(&old), entry(&other), attested(&old)] });
        let bytes: Bytes = before.to_string().into();
        let top = Manifest { media_type: "list".to_owned(), digest: Digest::of(&bytes), bytes };
        let replacements = HashMap::from([(old, Descriptor::new(OCI_MANIFEST, new, 7))]);
        let after = index(&top, &replacements).unwrap().unwrap();
        let after: Value = serde_json::from_slice(&after.bytes).unwrap();
        let mut replaced = entry(&new);
        replaced["mediaType"] = OCI_MANIFEST.into();
        replaced["size"] = 7.into();
        assert_eq!(after["manifests"], json!([replaced, entry(&other), attested(&new)]));
        assert_eq!(after["annotations"], json!({ ORIGINAL_MANIFEST: top.digest }));
        assert_eq!(after["mediaType"], OCI_INDEX);
        assert!(index(&top, &HashMap::new()).unwrap().is_none());
    }

    #[test]
    fn a_layer_loses_what_was_said_of_its_old_bytes() {
        let digest = Digest::of(b"new");
        let mut layer = json!({ "digest": "sha256:0", "size": 1, "data": "eA==", "urls": [], "annotations": {
            "containerd.io/snapshot/stargz/toc.digest": "x", "io.github.containers.zstd-chunked.x": "y", "own": "z" } });
        let annotations = Some([("k".to_owned(), "v".to_owned())].into());
        let converted = Descriptor { annotations, ..Descriptor::new("m", digest, 9) };
        replace_layer(layer.as_object_mut().unwrap(), &converted);
        let want = json!({ "mediaType": OCI_LAYER_ZSTD, "digest": digest, "size": 9, "annotations": { "own": "z", "k": "v" } });
        assert_eq!(layer, want);
    }
}
