//! The artifact as which a node leaves a trace beside the image that was started: a manifest whose subject is the image's, and the
//! trace's text as its only layer.

use serde_json::json;

use super::MAX_TOUCHES;
use crate::Digest;
use crate::media_type::{LAUNCH_TRACE, OCI_EMPTY, OCI_MANIFEST};

/// Bytes of a trace that is sent, or gathered: a start of Debian's largest programs has a tenth.
pub const MAX_SENT_LEN: usize = MAX_TOUCHES * 64;

/// The config of an artifact that has none.
pub const EMPTY_CONFIG: &[u8] = b"{}";

/// The manifest of the artifact of a trace with this text, for the image whose manifest is `subject`: its media type, digest and length.
pub fn trace_manifest(subject: (&str, Digest, u64), trace: &[u8]) -> Vec<u8> {
    let named = |media_type: &str, digest: Digest, size: u64| json!({ "mediaType": media_type, "digest": digest, "size": size });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": LAUNCH_TRACE,
        "config": named(OCI_EMPTY, Digest::of(EMPTY_CONFIG), EMPTY_CONFIG.len() as u64),
        "layers": [named(LAUNCH_TRACE, Digest::of(trace), trace.len() as u64)],
        "subject": named(subject.0, subject.1, subject.2),
    });
    manifest.to_string().into_bytes()
}
