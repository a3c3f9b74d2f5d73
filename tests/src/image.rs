//! The fixture language: images written down as what is in their layers.
//!
//! ```no_run
//! # use jaunt_tests::image::{Image, dir, file, layer, symlink, whiteout};
//! Image::new()
//!     .layer(layer([dir("a", 0o755), file("a/b", b"text").xattr("user.x", b"1")]))
//!     .layer(layer([whiteout("a/b"), symlink("a/c", "b")]).zstd());
//! ```
//!
//! The tars are written by [`tar`], which shares no code with the parser under test. A [`BuiltImage`] is
//! plain data: tests of bad input change it before they push it.

pub mod entry;
pub mod tar;

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use jaunt_formats::{ChainId, DiffId, Digest};
use serde_json::{Value, json};

pub use entry::{Entry, block_device, char_device, dir, fifo, file, hardlink, opaque, symlink, whiteout};

use crate::error::{At as _, Error, Result};
use crate::registry::Registry;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What container engines set where an image says nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One layer as it is to be written.
#[derive(Clone, Debug)]
pub struct Layer {
    entries: Vec<Entry>,
    encoding: &'static str,
}

/// A gzip layer holding `entries`, in that order.
pub fn layer(entries: impl IntoIterator<Item = Entry>) -> Layer {
    Layer { entries: entries.into_iter().collect(), encoding: "+gzip" }
}

impl Layer {
    /// Compressed with zstd instead of gzip.
    pub fn zstd(self) -> Self {
        Self { encoding: "+zstd", ..self }
    }

    /// Not compressed.
    pub fn plain(self) -> Self {
        Self { encoding: "", ..self }
    }

    fn build(&self) -> Result<BuiltLayer> {
        let tar = tar::archive(&self.entries);
        let diff_id = DiffId(Digest::of(&tar));
        let bytes = match self.encoding {
            "+gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&tar).at("gzip")?;
                encoder.finish().at("gzip")?
            }
            "+zstd" => zstd::encode_all(&tar[..], 3).at("zstd")?,
            _ => tar,
        };
        Ok(BuiltLayer { media_type: format!("{OCI_LAYER}{}", self.encoding), bytes, diff_id })
    }
}

/// An image as it is to be built.
#[derive(Clone, Debug, Default)]
pub struct Image {
    layers: Vec<Layer>,
    command: Vec<String>,
}

impl Image {
    /// An image without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more layer on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Without the entries that zstd:chunked has no words for: those whose names are no text.
    #[must_use]
    pub fn in_words(mut self) -> Self {
        for layer in &mut self.layers {
            layer.entries.retain(|entry| str::from_utf8(&entry.path).is_ok());
        }
        self
    }

    /// What a container runs.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Tars, compressed blobs and digests.
    pub fn build(self) -> Result<BuiltImage> {
        let layers = self.layers.iter().map(Layer::build).collect::<Result<_>>()?;
        Ok(BuiltImage { layers, command: self.command })
    }
}

/// A layer's blob.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// What the manifest says it is.
    pub media_type: String,
    /// What is pushed; the manifest always names its true digest and length.
    pub bytes: Vec<u8>,
    /// What the config says its tar hashes to.
    pub diff_id: DiffId,
}

/// An image ready to be pushed, or spoilt first.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// Bottom to top.
    pub layers: Vec<BuiltLayer>,
    /// What a container runs.
    pub command: Vec<String>,
}

impl BuiltImage {
    /// The chain IDs of all prefixes, the one-layer one first.
    pub fn chain_ids(&self) -> Vec<ChainId> {
        let diff_ids: Vec<DiffId> = self.layers.iter().map(|layer| layer.diff_id).collect();
        ChainId::prefixes(&diff_ids).collect()
    }

    /// The image's configuration.
    pub fn config(&self) -> Value {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Env": [PATH], "Cmd": self.command },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
    }

    /// Pushes everything; returns the manifest's digest and the reference `host/repository:tag`.
    pub fn push(&self, registry: &Registry, repository: &str, tag: &str) -> Result<Pushed> {
        let config = to_json(&self.config())?;
        let mut layers = Vec::new();
        for layer in &self.layers {
            let digest = registry.push_blob(repository, &layer.bytes)?;
            layers.push(descriptor(&layer.media_type, digest, layer.bytes.len()));
        }
        let digest = registry.push_blob(repository, &config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, digest, config.len()),
            "layers": layers,
        });
        let digest = registry.push_manifest(repository, tag, OCI_MANIFEST, &to_json(&manifest)?)?;
        let reference = format!("{}/{repository}:{tag}", registry.host());
        Ok(Pushed { reference, repository: repository.to_owned(), digest, manifest })
    }
}

/// Where a pushed image is.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// `host/repository:tag`.
    pub reference: String,
    /// The repository within the registry.
    pub repository: String,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Value,
}

fn descriptor(media_type: &str, digest: Digest, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
}

fn to_json(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::unexpected("JSON of a fixture", error.to_string()))
}

/// This machine's architecture by the name images use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
