//! The blob that a layer was converted from, streamed: it, too, must be what its digest says, compressed as its
//! media type says, and give the diffID.

use jaunt_formats::Digest;
use jaunt_formats::compression::Compression;
use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::media_type::{
    DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD,
};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::finding::{Check, Finding, Findings};
use crate::place::Place;
use crate::stream::{self, BlobRead, BlobReader, StreamError, TarReader};

/// Bytes of tar hashed at once.
const PIECE: usize = 256 << 10;

/// Reads the original of a layer whole. `media_type` is what the image's manifest says of it, if it is that manifest
/// which names it.
pub async fn check(place: &Place, layer: &LaunchLayer, media_type: Option<&str>) -> Result<Findings, Error> {
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
        Ok((blob, compression, tar)) => {
            if (blob.digest, blob.len) != (original.digest, original.len) {
                let finding = of_original("the original blob is".to_owned());
                let expected = text(original.digest, original.len);
                findings.push(finding.values(expected, text(blob.digest, blob.len)));
            }
            // Of no bytes nobody can tell what they are compressed with.
            if blob.len > 0 {
                for (whose, stated) in [
                    ("by the launch index", Some(original.compression)),
                    ("by its media type", media_type.and_then(stated_by)),
                ] {
                    if let Some(stated) = stated.filter(|stated| *stated != compression) {
                        let finding = of_original(format!("the compression of the original blob, {whose}"));
                        findings.push(finding.values(stated.name(), compression.name()));
                    }
                }
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

/// The compression that a layer's media type names, if it is one that images have.
fn stated_by(media_type: &str) -> Option<Compression> {
    match media_type {
        OCI_LAYER | DOCKER_LAYER => Some(Compression::None),
        OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Some(Compression::Gzip),
        OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Some(Compression::Zstd),
        _ => None,
    }
}

/// What the blob is, what it is compressed with, and its tar.
fn read(blob: BlobReader) -> Result<(BlobRead, Compression, BlobRead), StreamError> {
    let mut reader = TarReader::new(blob)?;
    let compression = reader.compression();
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
    Ok((reader.finish()?, compression, tar))
}
