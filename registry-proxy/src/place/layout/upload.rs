//! A blob on its way into a layout, written by threads that may wait for the disk.

use std::sync::Arc;

use bytes::Bytes;
use jaunt_formats::Digest;

use super::error::LayoutError;
use super::files::Files;
use super::incoming::Incoming;

/// An upload. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct LayoutUpload {
    files: Arc<Files>,
    /// `None` after an error.
    incoming: Option<Incoming>,
}

impl LayoutUpload {
    pub(super) fn new(files: Arc<Files>, incoming: Incoming) -> Self {
        Self { files, incoming: Some(incoming) }
    }

    pub async fn write(&mut self, bytes: Bytes) -> Result<(), LayoutError> {
        let mut incoming = self.incoming.take().ok_or_else(|| over(&self.files))?;
        let written = tokio::task::spawn_blocking(move || incoming.write(&bytes).map(|()| incoming));
        self.incoming = Some(written.await??);
        Ok(())
    }

    pub async fn finish(mut self, digest: &Digest, len: u64) -> Result<(), LayoutError> {
        let (files, digest) = (Arc::clone(&self.files), *digest);
        let incoming = self.incoming.take().ok_or_else(|| over(&files))?;
        tokio::task::spawn_blocking(move || files.finish(incoming, &digest, len)).await?
    }
}

fn over(files: &Files) -> LayoutError {
    LayoutError::UploadOver { directory: files.directory().to_owned() }
}
