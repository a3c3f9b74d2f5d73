//! Removes blobs that nothing in a layout names any more.
//!
//! A writer that finds a blob does not write it again. So nothing is removed while there is a writer: each
//! holds a shared lock for as long as it works, and removing needs it alone.

use std::collections::HashSet;
use std::fs;

use jaunt_distribution::limits::MANIFEST_BYTES;
use jaunt_formats::Digest;
use serde_json::Value;

use super::error::{LayoutError, io};
use super::files::Files;
use super::manifests::read_index;

/// Removes candidates that cannot be reached from index.json; the bytes that they had. `None` when another
/// process is writing.
pub fn collect(files: &Files, candidates: &[Digest]) -> Result<Option<u64>, LayoutError> {
    if candidates.is_empty() {
        return Ok(Some(0));
    }
    let Some(_alone) = files.lock_out_writers()? else { return Ok(None) };
    let named = reachable(files)?;
    let mut freed = 0;
    for digest in candidates.iter().filter(|digest| !named.contains(digest)) {
        let path = files.blob_path(digest);
        if let Some(len) = files.len_of(digest)? {
            fs::remove_file(&path).map_err(io("remove", path))?;
            freed += len;
        }
    }
    Ok(Some(freed))
}

/// Everything that index.json names, and what that names. A blob that cannot be read names nothing; one that
/// cannot be read for another reason than its content is an error.
fn reachable(files: &Files) -> Result<HashSet<Digest>, LayoutError> {
    let mut left: Vec<Digest> = read_index(files)?.descriptors().map(|listed| listed.digest).collect();
    let mut reachable = HashSet::new();
    while let Some(digest) = left.pop() {
        if !reachable.insert(digest) {
            continue;
        }
        match files.read_blob(&digest, MANIFEST_BYTES) {
            Ok(Some(bytes)) => left.extend(named_in(&bytes)),
            Ok(None) | Err(LayoutError::TooLarge { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(reachable)
}

/// Every digest that a document has anywhere, as long as it is JSON: what is not understood counts as well.
fn named_in(bytes: &[u8]) -> Vec<Digest> {
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else { return Vec::new() };
    let (mut named, mut left) = (Vec::new(), vec![&document]);
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => left.extend(fields.values()),
            Value::Array(values) => left.extend(values),
            Value::String(text) => named.extend(text.parse::<Digest>()),
            _ => {}
        }
    }
    named
}
