//! What containerd tells about a layer, in the labels of Prepare.
//!
//! The labels come from whoever pulls (CRI, transfer service, Docker, nerdctl) and are hostile until
//! parsed.

use std::collections::BTreeMap;

use jaunt_formats::{ChainId, Digest, DigestError, Reference, ReferenceError};

/// Chain ID that the prepared snapshot is to become: present when a layer is being unpacked.
pub const TARGET: &str = "containerd.io/snapshot.ref";
/// Reference by which the image is pulled.
pub const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
/// Digest of the image manifest.
pub const MANIFEST_DIGEST: &str = "containerd.io/snapshot/cri.manifest-digest";
/// Digest of the layer blob.
pub const LAYER_DIGEST: &str = "containerd.io/snapshot/cri.layer-digest";
/// Digests of the layer blobs from this one onward, joined by commas; cut where the label gets too long.
pub const IMAGE_LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
/// `container:host:size[,...]`: the user namespace that will use the snapshot.
pub const UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
/// As [`UID_MAPPING`], for groups.
pub const GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";

/// Ours, on a committed snapshot whose files belong to the ids of a user namespace already.
pub const REMAPPED: &str = "containerd.io/snapshot/jaunt.remapped";

/// A layer that could be there already, as far as containerd describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteLayer {
    /// The chain ID asked for.
    pub target: ChainId,
    /// The image it belongs to.
    pub image: Reference,
    /// That image's manifest.
    pub manifest: Digest,
    /// The layer's blob.
    pub layer: Digest,
}

/// Why the labels do not describe a layer.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// containerd does not pass image labels on.
    #[error(
        "containerd sends no image labels (1.x: disable_snapshot_annotations = false in the CRI plugin; \
         2.1 and later: enable_remote_snapshot_annotations in the proxy plugin's exports)"
    )]
    Absent,
    /// One of them is missing.
    #[error("label {0} is missing")]
    Missing(&'static str),
    /// Not a digest.
    #[error("label {label}")]
    Digest {
        /// The label.
        label: &'static str,
        /// What is wrong with its value.
        source: DigestError,
    },
    /// Not a reference.
    #[error("label {IMAGE_REF}")]
    Reference(#[from] ReferenceError),
}

impl RemoteLayer {
    /// Reads the labels of a Prepare that has a target.
    pub fn parse(labels: &BTreeMap<String, String>) -> Result<Self, LabelError> {
        let cri = [IMAGE_REF, MANIFEST_DIGEST, LAYER_DIGEST];
        if !cri.iter().any(|label| labels.contains_key(*label)) {
            return Err(LabelError::Absent);
        }
        let value = |label| labels.get(label).ok_or(LabelError::Missing(label));
        let digest =
            |label| value(label)?.parse::<Digest>().map_err(|source| LabelError::Digest { label, source });
        Ok(Self {
            target: ChainId(digest(TARGET)?),
            image: value(IMAGE_REF)?.parse()?,
            manifest: digest(MANIFEST_DIGEST)?,
            layer: digest(LAYER_DIGEST)?,
        })
    }
}

/// The host's id for the root of a user namespace: the mapping of container id 0.
pub fn mapped_root(mapping: &str) -> Option<u32> {
    mapping.split(',').find_map(|range| {
        let mut numbers = range.split(':').map(str::parse::<u32>);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(0)), Some(Ok(host)), Some(Ok(1..)), None) => Some(host),
            _ => None,
        }
    })
}

/// Whether a commit of `key` as `name` is containerd's copy of an image for a user namespace, with the owner of every
/// file changed. It makes one for snapshotters that are not said to map ids (`remap-ids`), and sends them the mapping
/// all the same; 1.7 and 2.x derive the name from the parent's each in a way of its own, and call the key so.
pub fn is_remap(key: &str, name: &str) -> bool {
    // A proxied name follows its namespace and a number, which differs.
    let own = |name| str::rsplit(name, '/').next().unwrap_or_default();
    own(key).strip_suffix("-remap") == Some(own(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> BTreeMap<String, String> {
        let digest = Digest::of(b"x").to_string();
        [
            (TARGET, digest.as_str()),
            (IMAGE_REF, "r.example/a:1"),
            (MANIFEST_DIGEST, &digest),
            (LAYER_DIGEST, &digest),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn reads_what_cri_sends() {
        let layer = RemoteLayer::parse(&labels()).unwrap();
        assert_eq!(layer.image.to_string(), "r.example/a:1");
        assert_eq!(layer.manifest, Digest::of(b"x"));
    }

    #[test]
    fn tells_apart_none_and_some() {
        let mut only_target = labels();
        only_target.retain(|key, _| key == TARGET);
        assert!(matches!(RemoteLayer::parse(&only_target), Err(LabelError::Absent)));
        let mut partial = labels();
        partial.remove(LAYER_DIGEST);
        assert!(matches!(RemoteLayer::parse(&partial), Err(LabelError::Missing(LAYER_DIGEST))));
        for (key, bad) in [(TARGET, "x"), (MANIFEST_DIGEST, "sha256:zz"), (IMAGE_REF, "../..")] {
            let mut hostile = labels();
            hostile.insert(key.to_owned(), bad.to_owned());
            assert!(RemoteLayer::parse(&hostile).is_err(), "{key}={bad} was accepted");
        }
    }

    #[test]
    fn finds_the_mapped_root() {
        assert_eq!(mapped_root("0:1000:65536"), Some(1000));
        assert_eq!(mapped_root("5:7:1,0:100000:1"), Some(100_000));
        for bad in ["", "0:1", "0:1:0", "1:2:3", "0:x:1", "0:1:2:3", "0:-1:2"] {
            assert_eq!(mapped_root(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_copy_with_changed_owners_is_known_by_its_key() {
        assert!(is_remap("k8s.io/20/sha256:ab-1000-1000-remap", "k8s.io/21/sha256:ab-1000-1000"));
        for (key, name) in
            [("n/1/a", "n/2/a"), ("n/1/b-remap", "n/2/a"), ("n/1/a-remap-", "n/2/a"), ("-remap", "a")]
        {
            assert!(!is_remap(key, name), "{key} {name}");
        }
    }
}
