//! Blobs, mounted from place to place where that can be done, and streamed where not.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::Error;
use crate::manifest::Descriptor;
use crate::place::{Place, PlaceError};
use crate::tries::Tries;

/// Blobs under way at the same time.
const PARALLEL: usize = 3;

/// What became of the blobs of a manifest.
#[derive(Default)]
pub struct Moved {
    pub bytes: u64,
    /// Those that the source does not have, and need not.
    pub missing: Vec<Descriptor>,
}

/// Brings blobs to the target.
pub async fn copy(source: &Place, target: &Place, blobs: Vec<Descriptor>) -> Result<Moved, Error> {
    let moves = blobs.into_iter().map(|blob| async move {
        match copy_one(source, target, &blob).await {
            Err(Error::Place(error)) if error.is_not_found() && blob.may_be_missing() => Ok((0, Some(blob))),
            moved => moved.map(|bytes| (bytes, None)),
        }
    });
    let moves = stream::iter(moves).buffer_unordered(PARALLEL).try_collect::<Vec<_>>().await?;
    let bytes = moves.iter().map(|(bytes, _)| bytes).sum();
    Ok(Moved { bytes, missing: moves.into_iter().filter_map(|(_, missing)| missing).collect() })
}

/// Brings one blob to the target; how many bytes were moved.
pub async fn copy_one(source: &Place, target: &Place, blob: &Descriptor) -> Result<u64, Error> {
    let mut tries = Tries::new();
    loop {
        if target.blob_exists(&blob.digest).await?.is_some()
            || target.mount_from(source, &blob.digest).await?
        {
            return Ok(0);
        }
        match stream_one(source, target, blob).await {
            Err(error) => tries.again(error).await?,
            moved => return moved,
        }
    }
}

async fn stream_one(source: &Place, target: &Place, blob: &Descriptor) -> Result<u64, Error> {
    let digest = &blob.digest;
    let mut pieces = source.blob_stream(digest).await?;
    let mut upload = target.start_upload().await?;
    let written: Result<u64, PlaceError> = async {
        let mut written = 0;
        while let Some(piece) = pieces.try_next().await? {
            written += piece.len() as u64;
            if written > blob.size {
                break;
            }
            upload.write(piece).await?;
        }
        Ok(written)
    }
    .await;
    match written {
        Ok(len) if len == blob.size => {
            // The place checks the digest.
            upload.finish(digest, len).await?;
            Ok(len)
        }
        other => {
            upload.abort().await;
            let len = other?;
            let what = if len > blob.size { "more".to_owned() } else { len.to_string() };
            Err(Error::BlobLength { blob: *digest, what, size: blob.size })
        }
    }
}
