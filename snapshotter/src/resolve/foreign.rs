//! Images whose layers are lazily readable as they are: no artifact, no conversion.
//!
//! The image's own manifest says so in the annotations of every layer. One range request a layer brings
//! what its format says of it; from all of them the launch index is built here, once, and kept. Today's
//! format is zstd:chunked; another one is a variant of [`Format`].
//!
//! Requests: the manifest, then its config and one range of each layer, all at the same time.

use std::collections::HashMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_distribution::Repository;
use jaunt_formats::launch::{self, Blob, Compression, LaunchError, LaunchLayer};
use jaunt_formats::media_type::IMAGE_MANIFESTS;
use jaunt_formats::tree::{TreeBuilder, TreeError};
use jaunt_formats::zstd_chunked::foreign::{self, ForeignError, ForeignLayer};
use jaunt_formats::zstd_chunked::{Annotations, AnnotationsError};
use jaunt_formats::{DiffId, Digest};
use serde::Deserialize;

use super::known::{self, AdmitError, KnownIndex};
use super::search::{Search, registry_failure};
use crate::fallback::{Fallback, FallbackCode};

/// Layers whose tables are fetched and read at once.
const PARALLEL: usize = 8;
/// Bytes of all layers' tables together: what an image may have a node hold in memory.
const MAX_TABLES: u64 = 128 << 20;
/// Configs hold a history, and no more.
const MAX_CONFIG: u64 = 8 << 20;

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<DiffId>,
}

/// Why an image whose layers seem to be lazily readable is not.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0} is not what it should be")]
    Json(&'static str, #[source] serde_json::Error),
    #[error("the image has {layers} layers and {diff_ids} diffIDs")]
    Count { layers: usize, diff_ids: usize },
    #[error("layer {0}")]
    Annotations(Digest, #[source] AnnotationsError),
    #[error("layer {0}")]
    Layer(Digest, #[source] ForeignError),
    #[error("the layers' tables have {0} bytes, more than {MAX_TABLES}")]
    TooLarge(u64),
    #[error("the layers do not form a tree")]
    Tree(#[from] TreeError),
    #[error("no launch index can be made of the layers")]
    Index(#[from] LaunchError),
}

impl From<Unusable> for Fallback {
    fn from(error: Unusable) -> Self {
        Self::from_error(FallbackCode::UnusableLayer, &error)
    }
}

/// How a layer's format makes it readable.
enum Format {
    ZstdChunked(Annotations),
}

impl Format {
    /// What a descriptor's annotations say; `None` for a layer that can only be unpacked.
    fn of(layer: &Descriptor) -> Result<Option<Self>, Unusable> {
        let Some(annotations) = &layer.annotations else { return Ok(None) };
        let chunked = Annotations::parse(annotations);
        Ok(chunked.map_err(|error| Unusable::Annotations(layer.digest, error))?.map(Self::ZstdChunked))
    }

    /// The range of the blob that has to be known before anything else of it is read.
    fn table(&self, layer: &Descriptor) -> Result<std::ops::Range<u64>, Unusable> {
        match self {
            Self::ZstdChunked(annotations) => foreign::tail(annotations, layer.size),
        }
        .map_err(|error| Unusable::Layer(layer.digest, error))
    }

    fn read(&self, diff_id: DiffId, layer: &Descriptor, table: &[u8]) -> Result<ForeignLayer, Unusable> {
        let blob = Blob { digest: layer.digest, len: layer.size, compression: Compression::Zstd };
        match self {
            Self::ZstdChunked(annotations) => foreign::read(diff_id, blob, annotations, table),
        }
        .map_err(|error| Unusable::Layer(layer.digest, error))
    }
}

impl Search<'_> {
    /// The index of an image whose layers can all be read as they are; `otherwise` for any other image.
    pub async fn foreign(&self, otherwise: Fallback) -> Result<KnownIndex, Fallback> {
        let repository = &self.pin.repository;
        let name = self.pin.manifest.to_string();
        let found = self.client.manifest(repository, &name, &IMAGE_MANIFESTS).await;
        let manifest: Manifest = match found.as_ref().map(|found| serde_json::from_slice(&found.bytes)) {
            Ok(Ok(manifest)) => manifest,
            // containerd has read this manifest, so it is what it asked for that counts: the artifact.
            unread => {
                tracing::debug!(
                    manifest = name,
                    unread = unread.is_err(),
                    "the image's manifest cannot be read"
                );
                return Err(otherwise);
            }
        };
        let formats: Vec<Option<Format>> =
            manifest.layers.iter().map(Format::of).collect::<Result<_, _>>()?;
        let readable: Vec<Format> = formats.into_iter().flatten().collect();
        if readable.len() < manifest.layers.len() || readable.is_empty() {
            return Err(count_readable(otherwise, readable.len(), manifest.layers.len()));
        }
        let diff_ids = self.diff_ids(repository, &manifest);
        let tables = self.tables(repository, &manifest.layers, &readable);
        let (diff_ids, tables) = futures_util::try_join!(diff_ids, tables)?;
        let known = self.build(manifest.layers, readable, diff_ids, tables).await?;
        let why = otherwise.code.as_str();
        tracing::info!(manifest = name, index = %known.index, why, "the image's own layers are read lazily");
        Ok(known)
    }

    async fn diff_ids(&self, repository: &Repository, manifest: &Manifest) -> Result<Vec<DiffId>, Fallback> {
        let config = self.client.blob(repository, &manifest.config.digest, MAX_CONFIG).await;
        let config = config.map_err(|error| registry_failure(&error))?;
        let config: Config =
            serde_json::from_slice(&config).map_err(|source| Unusable::Json("the image's config", source))?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(Unusable::Count { layers, diff_ids }.into());
        }
        Ok(config.rootfs.diff_ids)
    }

    /// What each layer's format says of it, unverified, in the order of the layers.
    async fn tables(
        &self,
        repository: &Repository,
        layers: &[Descriptor],
        formats: &[Format],
    ) -> Result<Vec<bytes::Bytes>, Fallback> {
        let tables = formats.iter().zip(layers).map(|(format, layer)| format.table(layer));
        let tables: Vec<_> = tables.collect::<Result<_, _>>()?;
        let all = tables.iter().map(|table| table.end - table.start).fold(0, u64::saturating_add);
        if all > MAX_TABLES {
            return Err(Unusable::TooLarge(all).into());
        }
        let blobs: Vec<_> = layers.iter().map(|layer| layer.digest).zip(tables).collect();
        let fetched = stream::iter(
            blobs
                .into_iter()
                .map(|(blob, table)| async move { self.client.blob_range(repository, &blob, table).await }),
        );
        fetched.buffered(PARALLEL).try_collect().await.map_err(|error| registry_failure(&error))
    }

    /// Reads the tables, builds the index, and keeps it under the digest of its own bytes.
    async fn build(
        &self,
        layers: Vec<Descriptor>,
        formats: Vec<Format>,
        diff_ids: Vec<DiffId>,
        tables: Vec<bytes::Bytes>,
    ) -> Result<KnownIndex, Fallback> {
        let parts = layers.into_iter().zip(formats).zip(diff_ids.into_iter().zip(tables));
        let read = stream::iter(parts.map(|((layer, format), (diff_id, table))| {
            tokio::task::spawn_blocking(move || format.read(diff_id, &layer, &table))
        }));
        let read: Vec<Result<ForeignLayer, Unusable>> =
            read.buffered(PARALLEL).try_collect().await.map_err(|_| stopping())?;
        let read: Vec<ForeignLayer> = read.into_iter().collect::<Result<_, _>>()?;
        let index = tokio::task::spawn_blocking(move || write(read)).await.map_err(|_| stopping())??;
        known::keep(self.indexes, index).await.map_err(|error| match error {
            AdmitError::Unsound(error) => Unusable::from(error).into(),
            error => Fallback::from_error(FallbackCode::LocalStorage, &error),
        })
    }
}

fn write(layers: Vec<ForeignLayer>) -> Result<Vec<u8>, Unusable> {
    let mut tree = TreeBuilder::new();
    let mut described: Vec<LaunchLayer> = Vec::with_capacity(layers.len());
    for ForeignLayer { layer, entries } in layers {
        tree.push_layer(entries)?;
        described.push(layer);
    }
    Ok(launch::write(&described, tree.finish())?)
}

fn stopping() -> Fallback {
    Fallback::from_error(FallbackCode::LocalStorage, &AdmitError::Stopping)
}

/// Says of an image that mixes layers why the readable ones were of no use.
fn count_readable(mut otherwise: Fallback, readable: usize, layers: usize) -> Fallback {
    if readable > 0 {
        otherwise.detail.push_str(&format!("; {readable} of its {layers} layers could be read as they are"));
    }
    otherwise
}
