//! Traces that nodes left beside an image: artifacts that name its manifest as their subject.
//!
//! Whoever may push to the repository may have left them, so they count only as far as they are sound: a limit on their number and
//! lengths, the format, and whether the files that they name are in the image. What is not used is told with the reason.

use std::collections::HashSet;

use jaunt_formats::Digest;
use jaunt_formats::boot::{MAX_SENT_LEN, Trace};
use jaunt_formats::error_chain;
use jaunt_formats::launch::LaunchIndex;
use jaunt_formats::media_type::{LAUNCH_TRACE, OCI_MANIFEST};

use super::merge::{MAX_PAGES, find, named};
use crate::error::Error;
use crate::manifest::{self, ImageManifest};
use crate::place::Place;

/// Traces that are merged: more tell nothing new, and each is in memory.
const MAX_USED: usize = 32;
/// Pages that one of them may name, and all of them: one that lies must not keep the others from being merged.
const MAX_NAMED: usize = MAX_PAGES / 4;
const MAX_NAMED_IN_ALL: usize = MAX_PAGES / 2;
/// Artifacts that are looked at, the latest of the list.
const MAX_LOOKED_AT: usize = 256;

/// What nodes left.
#[derive(Default)]
pub struct Gathered {
    /// What counts.
    pub used: Vec<Left>,
    /// Artifacts that do not, and why.
    pub refused: Vec<(Digest, String)>,
}

/// A trace that a node left.
pub struct Left {
    /// Its artifact.
    pub artifact: Digest,
    /// Digest of its text.
    pub digest: Digest,
    /// It.
    pub trace: Trace,
}

impl Gathered {
    /// All artifacts that were found.
    pub fn artifacts(&self) -> impl Iterator<Item = Digest> {
        let used = self.used.iter().map(|left| left.artifact);
        used.chain(self.refused.iter().map(|(artifact, _)| *artifact))
    }
}

/// The traces that were left beside the image with this manifest and launch index.
pub async fn gather(
    place: &Place,
    subject: &Digest,
    index: &LaunchIndex<Vec<u8>>,
) -> Result<Gathered, Error> {
    let mut gathered = Gathered::default();
    let (mut artifacts, mut seen) = (HashSet::new(), HashSet::new());
    let mut pages = 0;
    let referrers = place.referrers(subject, Some(LAUNCH_TRACE)).await?;
    for artifact in
        referrers.iter().rev().map(|referrer| referrer.digest).filter(|digest| artifacts.insert(*digest))
    {
        if gathered.artifacts().count() >= MAX_LOOKED_AT {
            break;
        }
        let refusal = match read(place, subject, artifact).await? {
            // A list outlives what it names.
            Ok(None) => continue,
            Ok(Some(left)) if !seen.insert(left.digest) => "another has the same trace".to_owned(),
            Ok(Some(_)) if gathered.used.len() >= MAX_USED => format!("there are more than {MAX_USED}"),
            Ok(Some(left)) => match strange(index, &left.trace) {
                Some(why) => why,
                None => match named(index, &left.trace, MAX_NAMED + 1) {
                    named if named > MAX_NAMED => format!("it touches more than {MAX_NAMED} pages"),
                    named if pages + named > MAX_NAMED_IN_ALL => "those before touch enough".to_owned(),
                    named => {
                        pages += named;
                        gathered.used.push(left);
                        continue;
                    }
                },
            },
            Err(why) => why,
        };
        gathered.refused.push((artifact, refusal));
    }
    Ok(gathered)
}

/// Reads one; `None` where it is gone, the inner error why it is none.
async fn read(
    place: &Place,
    subject: &Digest,
    artifact: Digest,
) -> Result<Result<Option<Left>, String>, Error> {
    let Some(found) = place.manifest_if_exists(&artifact.to_string(), &[OCI_MANIFEST]).await? else {
        return Ok(Ok(None));
    };
    let layer = match layer(subject, artifact, &found.bytes) {
        Ok(layer) => layer,
        Err(why) => return Ok(Err(why)),
    };
    let text = match place.blob(&layer, MAX_SENT_LEN as u64).await {
        Ok(text) => text,
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => return Ok(Err(error_chain(&error))),
    };
    let parsed = Trace::parse(&text).map_err(|error| error_chain(&error));
    Ok(parsed.map(|trace| Some(Left { artifact, digest: layer, trace })))
}

/// The blob of an artifact that is what it should be.
fn layer(subject: &Digest, artifact: Digest, bytes: &[u8]) -> Result<Digest, String> {
    let manifest: ImageManifest =
        manifest::parse("trace", artifact, bytes).map_err(|error| error_chain(&error))?;
    if manifest.artifact_type.as_deref() != Some(LAUNCH_TRACE) {
        return Err("it is of another type than its list says".to_owned());
    }
    if manifest.subject.is_none_or(|named| named.digest != *subject) {
        return Err("its subject is another image".to_owned());
    }
    match &manifest.layers[..] {
        [layer] if layer.size > MAX_SENT_LEN as u64 => {
            Err(format!("{} bytes, more than {MAX_SENT_LEN}", layer.size))
        }
        [layer] => Ok(layer.digest),
        layers => Err(format!("{} layers instead of one", layers.len())),
    }
}

/// Why a trace is not one of this image, if it is not: a start of another version touches mostly what this one has as well.
fn strange(index: &LaunchIndex<Vec<u8>>, trace: &Trace) -> Option<String> {
    if trace.touches.is_empty() {
        return Some("it touches nothing".to_owned());
    }
    let paths: HashSet<&str> = trace.touches.iter().map(|touch| touch.path.as_str()).collect();
    let absent = paths.iter().filter(|path| find(index, path).is_none()).count();
    (2 * absent > paths.len()).then(|| format!("{absent} of its {} files are not in the image", paths.len()))
}
