//! A blob on its way to a place.

use bytes::Bytes;
use jaunt_distribution::BlobUpload;
use jaunt_formats::Digest;

use super::PlaceError;
use super::layout::LayoutUpload;

/// An upload. Dropped unfinished, it leaves nothing.
#[must_use = "an upload counts only once it is finished"]
pub enum Upload {
    Registry(BlobUpload),
    Layout(LayoutUpload),
}

impl Upload {
    /// Sends more bytes; waits while the place is behind. After an error the upload is over.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), PlaceError> {
        match self {
            Self::Registry(upload) => Ok(upload.write(bytes).await?),
            Self::Layout(upload) => Ok(upload.write(bytes).await?),
        }
    }

    /// Ends the upload: the blob exists under `digest` when this returns. The place checks that what was
    /// written has this digest and length.
    pub async fn finish(self, digest: &Digest, len: u64) -> Result<(), PlaceError> {
        match self {
            Self::Registry(upload) => Ok(upload.finish(digest, len).await?),
            Self::Layout(upload) => Ok(upload.finish(digest, len).await?),
        }
    }

    /// Cancels the upload.
    pub async fn abort(self) {
        match self {
            Self::Registry(upload) => upload.abort().await,
            Self::Layout(upload) => drop(upload),
        }
    }
}
