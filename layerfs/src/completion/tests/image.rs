//! Images of real tars, for what has to read them back; and their indexes, which may lie.

use std::sync::Arc;

use bytes::Bytes;
use jaunt_formats::launch::{self, Blob, Compression, LaunchLayer};
use jaunt_formats::tar::{Event, Scanner};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{
    BlobOffset, Content, DiffId, Digest, DigestScope, Entry, EntryKind, Span, SpanDigest, TarOffset,
};

use crate::fs::LayerFs;
use crate::index_file::open_index;
use crate::layers::{Layers, Settings};
use crate::source::{MemorySource, Source};
use crate::store::Store;
use crate::testing::{Chance, NOT_AHEAD, SPAN};

/// A file of a tar: its name, mode and content.
pub(super) type File<'f> = (&'f str, u32, Vec<u8>);

/// A tar with these files, two blocks of zeros at its end.
pub(super) fn tar(files: &[File<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, mode, content) in files {
        tar.extend(header(name, *mode, content.len()));
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn header(name: &str, mode: u32, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    for at in [108, 116] {
        put(at, b"0000000");
    }
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Bytes that hardly compress.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut chance = Chance(seed);
    (0..len.div_ceil(8)).flat_map(|_| chance.next().to_le_bytes()).take(len).collect()
}

/// An image, its blobs, and a place for its store.
pub(super) struct Image {
    pub(super) layers: Vec<LaunchLayer>,
    pub(super) blobs: Vec<Bytes>,
    pub(super) index: Digest,
    pub(super) directory: tempfile::TempDir,
}

impl Image {
    /// One layer for each tar.
    pub(super) fn new(tars: &[Vec<u8>]) -> Self {
        Self::lying(tars, |_, _| {})
    }

    /// The same, as it is read without a launch artifact: spans have the content of files, and nothing else.
    pub(super) fn gapped(tars: &[Vec<u8>]) -> Self {
        Self::converted(tars, |_, _| {}, convert_content)
    }

    /// The same, with what its index says changed.
    pub(super) fn lying(tars: &[Vec<u8>], lie: impl Fn(&mut LaunchLayer, &mut Vec<Entry>)) -> Self {
        Self::converted(tars, lie, convert)
    }

    fn converted(
        tars: &[Vec<u8>],
        lie: impl Fn(&mut LaunchLayer, &mut Vec<Entry>),
        convert: fn(&[u8]) -> (LaunchLayer, Bytes),
    ) -> Self {
        let (mut layers, mut blobs, mut tree) = (Vec::new(), Vec::new(), TreeBuilder::new());
        for tar in tars {
            let (mut layer, blob) = convert(tar);
            let mut entries = entries(tar);
            lie(&mut layer, &mut entries);
            tree.push_layer(entries).unwrap();
            layers.push(layer);
            blobs.push(blob);
        }
        let bytes = launch::write(&layers, tree.finish()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("index"), &bytes).unwrap();
        Self { layers, blobs, index: Digest::of(&bytes), directory }
    }

    /// Its store, as a daemon finds it that starts.
    pub(super) fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(&self.directory.path().join("layers")).unwrap())
    }

    /// A source of its blobs.
    pub(super) fn source(&self) -> Arc<dyn Source> {
        let blobs = self.layers.iter().map(|layer| layer.converted.digest).zip(self.blobs.iter().cloned());
        Arc::new(MemorySource::new(blobs))
    }

    /// All of it, mounted.
    pub(super) fn mount(&self, store: &Arc<Store>, sources: &[Arc<dyn Source>]) -> Arc<LayerFs> {
        self.mount_with(NOT_AHEAD(), store, sources)
    }

    /// The same where things are as `settings` say.
    pub(super) fn mount_with(
        &self,
        settings: Settings,
        store: &Arc<Store>,
        sources: &[Arc<dyn Source>],
    ) -> Arc<LayerFs> {
        let layers = Layers::new(store.clone(), settings);
        let index = open_index(&self.directory.path().join("index")).unwrap();
        let prefix = self.layers.len() as u16;
        Arc::new(LayerFs::new(index, prefix, "test".to_owned(), &layers, sources).unwrap())
    }

    /// Bytes of all blobs that the spans are cut from.
    pub(super) fn blob_bytes(&self) -> u64 {
        let spans = self.layers.iter().flat_map(|layer| &layer.spans);
        spans.map(|span| u64::from(span.compressed_len)).sum()
    }
}

/// Whether all of an image can be read, and is what it should be, with no source.
pub(super) async fn is_whole(image: &Image, store: &Arc<Store>, tars: &[Vec<u8>]) -> bool {
    let fs = image.mount(store, &[]);
    for (layer, tar) in fs.layers().iter().zip(tars) {
        let read = layer.read(0..tar.len() as u64).await;
        if read.ok().as_ref() != Some(tar) {
            return false;
        }
    }
    true
}

fn entries(tar: &[u8]) -> Vec<Entry> {
    let (mut scanner, mut entries) = (Scanner::new(), Vec::new());
    let pushed = scanner.push(tar, &mut |event| {
        if let Event::Member(member) = event {
            entries.push(member.entry);
        }
    });
    pushed.unwrap();
    scanner.finish().unwrap();
    entries
}

fn convert(tar: &[u8]) -> (LaunchLayer, Bytes) {
    let (mut blob, mut spans) = (Vec::new(), Vec::new());
    for (at, part) in tar.chunks(SPAN).enumerate() {
        let frames = crate::decode::tests::frames(part, SPAN);
        spans.push(Span {
            blob_offset: BlobOffset(blob.len() as u64),
            compressed_len: frames.len() as u32,
            tar_offset: TarOffset((at * SPAN) as u64),
            tar_len: part.len() as u32,
            digest: SpanDigest(*blake3::hash(&frames).as_bytes()),
        });
        blob.extend(frames);
    }
    let blob_of =
        |bytes: &[u8], compression| Blob { digest: Digest::of(bytes), len: bytes.len() as u64, compression };
    let layer = LaunchLayer {
        diff_id: DiffId(Digest::of(tar)),
        original: blob_of(tar, Compression::None),
        converted: blob_of(&blob, Compression::Zstd),
        tar_len: tar.len() as u64,
        scope: DigestScope::Compressed,
        spans,
    };
    (layer, blob.into())
}

/// Headers and padding in frames of their own, which no span names; the blob is its own original.
fn convert_content(tar: &[u8]) -> (LaunchLayer, Bytes) {
    let (mut blob, mut spans, mut at) = (Vec::new(), Vec::new(), 0);
    let content = |entry: Entry| match entry.kind {
        EntryKind::Regular { size, content: Content::Contiguous(at) } => Some(at.0..at.0 + size),
        _ => None,
    };
    let contents: Vec<_> = entries(tar).into_iter().filter_map(content).collect();
    for content in contents {
        blob.extend(crate::decode::tests::frames(&tar[at..content.start as usize], SPAN));
        for part in content.clone().step_by(SPAN) {
            let bytes = &tar[part as usize..content.end.min(part + SPAN as u64) as usize];
            let frames = crate::decode::tests::frames(bytes, SPAN);
            spans.push(Span {
                blob_offset: BlobOffset(blob.len() as u64),
                compressed_len: frames.len() as u32,
                tar_offset: TarOffset(part),
                tar_len: bytes.len() as u32,
                digest: SpanDigest(*Digest::of(bytes).as_bytes()),
            });
            blob.extend(frames);
        }
        at = content.end as usize;
    }
    blob.extend(crate::decode::tests::frames(&tar[at..], SPAN));
    let compression = Compression::Zstd;
    let itself = Blob { digest: Digest::of(&blob), len: blob.len() as u64, compression };
    let layer = LaunchLayer {
        diff_id: DiffId(Digest::of(tar)),
        original: itself,
        converted: itself,
        tar_len: tar.len() as u64,
        scope: DigestScope::Uncompressed,
        spans,
    };
    (layer, blob.into())
}
