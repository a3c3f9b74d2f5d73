//! The boot pack: its table, every frame, and every extent against the layers.

use jaunt_formats::boot::{BootPack, MAX_CONTENT_LEN};
use jaunt_formats::compression::FrameDecoder;
use jaunt_formats::launch::LaunchIndex;

use crate::artifact::{Artifact, table_place};
use crate::content;
use crate::error::Error;
use crate::finding::{Check, Finding};
use crate::manifest::Descriptor;
use crate::place::Place;

/// Bytes of content that are held at the same time, besides the blob.
const PIECE: u64 = 32 << 20;

/// What is wrong with a pack; nothing if all is right.
pub async fn check(
    place: &Place,
    artifact: &Artifact,
    boot: &Descriptor,
    index: &LaunchIndex<Vec<u8>>,
) -> Result<Vec<Finding>, Error> {
    let blob = place.blob(&boot.digest, MAX_CONTENT_LEN + (64 << 20)).await?;
    let refused = |what: String| Ok(vec![Finding::new(Check::Boot, what)]);
    let table = table_place(boot, artifact.digest)?;
    let Some(bytes) = blob.get(..table.len()) else {
        return refused("it is shorter than its table".to_owned());
    };
    let pack = match table
        .open(bytes)
        .and_then(|pack| pack.check(artifact.index.digest, index.layers()).map(|()| pack))
    {
        Ok(pack) => pack,
        Err(error) => return refused(error.to_string()),
    };
    if pack.blob_len() != blob.len() as u64 || boot.size != blob.len() as u64 {
        return refused(format!("it is {} bytes long, and its table says {}", blob.len(), pack.blob_len()));
    }
    let mut findings = Vec::new();
    let mut first = 0;
    while first < pack.frames.len() {
        let mut len = 0;
        let last = pack.frames[first..].iter().take_while(|frame| {
            len += u64::from(frame.content_len);
            len <= PIECE
        });
        let last = first + last.count().max(1);
        findings.extend(check_frames(place, &pack, first..last, &blob, index).await?);
        first = last;
    }
    Ok(findings)
}

async fn check_frames(
    place: &Place,
    pack: &BootPack,
    frames: std::ops::Range<usize>,
    blob: &[u8],
    index: &LaunchIndex<Vec<u8>>,
) -> Result<Vec<Finding>, Error> {
    let (mut findings, mut decoder) = (Vec::new(), FrameDecoder::new());
    let extents = pack.frames[frames.start].extents.start..pack.frames[frames.end - 1].extents.end;
    let mut truth = content::read(place, index.layers(), &pack.extents[extents]).await?.into_iter();
    for (number, frame) in frames.clone().zip(&pack.frames[frames]) {
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let compressed = blob.get(at(frame.blob.start)..at(frame.blob.end)).unwrap_or_default();
        let offset = frame.blob.start;
        let of_frame = |what: &str| Finding::new(Check::Boot, format!("frame {number}: {what}")).at(offset);
        let held: Vec<_> = truth.by_ref().take(frame.extents.len()).collect();
        if *blake3::hash(compressed).as_bytes() != frame.digest {
            findings.push(of_frame("its digest does not match"));
            continue;
        }
        match decoder.decode_to_vec(compressed, frame.content_len as usize) {
            Err(error) => findings.push(of_frame(&error.to_string())),
            Ok(content) if content != held.concat() => {
                findings.push(of_frame("it does not hold what the layers have there"));
            }
            Ok(_) => {}
        }
    }
    Ok(findings)
}
