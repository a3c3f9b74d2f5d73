//! The blob that a layer was converted from, streamed: it, too, must be what its digest says, and give the diffID.

use jaunt_formats::Digest;
use jaunt_formats::launch::LaunchLayer;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::finding::{Check, Finding, Findings};
use crate::place::Place;
use crate::stream::{self, BlobRead, BlobReader, StreamError, TarReader};

/// Bytes of tar hashed at once.
const PIECE: usize = 256 << 10;

/// Reads the original of a layer whole.
pub async fn check(place: &Place, layer: &LaunchLayer) -> Result<Findings, Error> {
    let original = layer.original;
    let read = match place.blob_stream(&original.digest).await {
        Err(error) => Err(StreamError::Place(error)),
        Ok(blob) => {
            let (sender, reader) = stream::channel();
            let reading = tokio::task::spawn_blocking(move || read(reader));
            let ((), read) = tokio::join!(stream::pump(blob, original.len, sender), reading);
            read?
        }
    };
    let mut findings = Findings::default();
    let of_original = |what: String| Finding::new(Check::Original, what);
    let text = |digest: Digest, len: u64| format!("{digest} of {len} bytes");
    match read {
        Err(error) => {
            findings
                .push(of_original(format!("the original blob {} cannot be read: {error}", original.digest)));
        }
        Ok((blob, tar)) => {
            if (blob.digest, blob.len) != (original.digest, original.len) {
                let finding = of_original("the original blob is".to_owned());
                let expected = text(original.digest, original.len);
                findings.push(finding.values(expected, text(blob.digest, blob.len)));
            }
            if (tar.digest, tar.len) != (layer.diff_id.0, layer.tar_len) {
                let finding = of_original(format!("the original blob {} decodes to", original.digest));
                let expected = text(layer.diff_id.0, layer.tar_len);
                findings.push(finding.values(expected, text(tar.digest, tar.len)));
            }
        }
    }
    Ok(findings)
}

/// What the blob is, and its tar.
fn read(blob: BlobReader) -> Result<(BlobRead, BlobRead), StreamError> {
    let mut reader = TarReader::new(blob)?;
    let (mut piece, mut digest, mut len) = (vec![0; PIECE], Sha256::new(), 0);
    loop {
        let filled = reader.fill(&mut piece)?;
        if filled == 0 {
            break;
        }
        digest.update(&piece[..filled]);
        len += filled as u64;
    }
    let tar = BlobRead { digest: Digest::from_bytes(digest.finalize().into()), len };
    Ok((reader.finish()?, tar))
}
