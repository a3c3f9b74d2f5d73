//! An OCI image layout in a directory: what builders write, and what `oci:DIR` names.
//!
//! Spec: OCI image-spec 1.1, "OCI Image Layout Specification". The directory is made when something is
//! written to it. index.json never names what is not on disk, and processes that write to one layout
//! at the same time lose nothing of each other's.

mod collect;
mod error;
mod files;
mod incoming;
mod index;
mod manifests;
mod upload;

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use jaunt_distribution::{Manifest, PushedManifest};
use jaunt_formats::Digest;

pub use error::LayoutError;
use files::Files;
pub use upload::LayoutUpload;

use super::{BlobStream, PlaceError, TagMove};
use crate::manifest::Descriptor;

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// A layout. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LayoutPlace {
    files: Arc<Files>,
}

impl LayoutPlace {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { files: Arc::new(Files::new(directory.into())) }
    }

    pub fn is_same(&self, other: &Self) -> bool {
        let canonical = |place: &Self| place.files.directory().canonicalize();
        self.files.directory() == other.files.directory()
            || matches!((canonical(self), canonical(other)), (Ok(one), Ok(other)) if one == other)
    }

    pub async fn manifest(&self, name: &str) -> Result<Manifest, LayoutError> {
        let name = name.to_owned();
        self.run(move |files| manifests::read(files, &name)).await
    }

    pub async fn push_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<PushedManifest, LayoutError> {
        let (name, media_type) = (name.to_owned(), media_type.to_owned());
        self.run(move |files| manifests::write(files, &name, &media_type, &bytes)).await
    }

    pub async fn move_tag(
        &self,
        tag: &str,
        expected: Option<Digest>,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<TagMove, LayoutError> {
        let (tag, media_type) = (tag.to_owned(), media_type.to_owned());
        self.run(move |files| manifests::move_tag(files, &tag, expected, &media_type, &bytes)).await
    }

    pub async fn collect(&self, candidates: Vec<Digest>) -> Result<Option<u64>, LayoutError> {
        self.run(move |files| collect::collect(files, &candidates)).await
    }

    pub async fn tags(&self) -> Result<Vec<String>, LayoutError> {
        self.run(manifests::tags).await
    }

    pub async fn delete_manifest(&self, digest: &Digest) -> Result<(), LayoutError> {
        let digest = *digest;
        self.run(move |files| manifests::delete(files, &digest)).await
    }

    pub async fn delete_tag(&self, tag: &str) -> Result<bool, LayoutError> {
        let tag = tag.to_owned();
        self.run(move |files| manifests::delete_tag(files, &tag)).await
    }

    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, LayoutError> {
        let (subject, artifact_type) = (*subject, artifact_type.map(str::to_owned));
        self.run(move |files| manifests::referrers(files, &subject, artifact_type.as_deref())).await
    }

    pub async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, LayoutError> {
        let digest = *digest;
        self.run(move |files| files.read_blob(&digest, limit)?.ok_or_else(|| no_blob(files, &digest))).await
    }

    pub async fn blob_stream(&self, digest: &Digest) -> Result<BlobStream, LayoutError> {
        let digest = *digest;
        let open = self.run(move |files| files.open_blob(&digest)?.ok_or_else(|| no_blob(files, &digest)));
        let (file, path) = (open.await?, self.files.blob_path(&digest));
        let pieces = stream::try_unfold(file, move |mut file| {
            let path = path.clone();
            async move {
                let read = tokio::task::spawn_blocking(move || {
                    let piece = read_piece(&mut file).map_err(error::io("read", path))?;
                    Ok::<_, LayoutError>((!piece.is_empty()).then_some((piece, file)))
                });
                read.await.map_err(LayoutError::from)?.map_err(PlaceError::from)
            }
        });
        Ok(pieces.boxed())
    }

    pub async fn blob_range(&self, digest: &Digest, range: Range<u64>) -> Result<Bytes, LayoutError> {
        let digest = *digest;
        self.run(move |files| files.read_range(&digest, range)?.ok_or_else(|| no_blob(files, &digest))).await
    }

    pub async fn blob_exists(&self, digest: &Digest) -> Result<Option<u64>, LayoutError> {
        let digest = *digest;
        self.run(move |files| files.blob_len(&digest)).await
    }

    pub async fn push_blob(&self, digest: &Digest, bytes: Bytes) -> Result<(), LayoutError> {
        let digest = *digest;
        self.run(move |files| {
            files.make_layout()?;
            files.write_blob(&digest, &bytes)
        })
        .await
    }

    pub async fn start_upload(&self) -> Result<LayoutUpload, LayoutError> {
        let files = Arc::clone(&self.files);
        let incoming = self.run(|files| files.make_layout().and_then(|()| files.start_blob())).await?;
        Ok(LayoutUpload::new(files, incoming))
    }

    /// Runs what waits for the disk where waiting does no harm.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, LayoutError> + Send + 'static,
    ) -> Result<T, LayoutError> {
        let files = Arc::clone(&self.files);
        tokio::task::spawn_blocking(move || work(&files)).await?
    }
}

fn no_blob(files: &Files, digest: &Digest) -> LayoutError {
    LayoutError::NotFound { directory: files.directory().to_owned(), what: format!("blob {digest}") }
}

/// The next bytes of a file; none at its end.
fn read_piece(file: &mut File) -> std::io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE);
    file.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}
