//! A small language for images: what a layer holds, without a tar around it.
//!
//! An index names content by its place in the layer's tar and never looks at what lies between, so the "tar" here is
//! the files' contents, one after the other.

use jaunt_formats::launch::{self, Blob, Compression, LaunchLayer};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{
    BlobOffset, Content, DiffId, Digest, DigestScope, Entry, EntryKind, EntryPath, Span, SpanDigest,
    SparseExtent, TarOffset, Timestamp, Xattr,
};

/// Bytes of tar that a span covers here: several spans for a file of a megabyte.
const SPAN: usize = 128 << 10;

/// One thing in a layer.
pub struct Node {
    entry: Entry,
    content: Vec<u8>,
}

impl Node {
    fn new(path: impl AsRef<[u8]>, kind: EntryKind, mode: u32) -> Self {
        let path = EntryPath::parse(path.as_ref()).unwrap();
        let mtime = Timestamp { seconds: 1_600_000_000, nanoseconds: 0 };
        let entry = Entry { path, kind, mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
        Self { entry, content: Vec::new() }
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.entry.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.entry.uid, self.entry.gid) = (uid, gid);
        self
    }

    pub fn mtime(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.entry.mtime = Timestamp { seconds, nanoseconds };
        self
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.entry.xattrs.push(Xattr { name: name.as_bytes().into(), value: value.into() });
        self.entry.xattrs.sort();
        self
    }
}

pub fn dir(path: impl AsRef<[u8]>) -> Node {
    Node::new(path, EntryKind::Directory, 0o755)
}

pub fn file(path: impl AsRef<[u8]>, content: impl Into<Vec<u8>>) -> Node {
    let content = content.into();
    let kind = EntryKind::Regular { size: content.len() as u64, content: Content::Contiguous(TarOffset(0)) };
    Node { content, ..Node::new(path, kind, 0o644) }
}

/// A file of `size` bytes that has data at the offsets given, and holes between.
pub fn sparse(path: &str, size: u64, data: &[(u64, &[u8])]) -> Node {
    let mut content = Vec::new();
    let mut extents = Vec::new();
    for (file_offset, bytes) in data {
        let tar_offset = TarOffset(content.len() as u64);
        extents.push(SparseExtent { file_offset: *file_offset, tar_offset, len: bytes.len() as u64 });
        content.extend_from_slice(bytes);
    }
    let kind = EntryKind::Regular { size, content: Content::Sparse(extents) };
    Node { content, ..Node::new(path, kind, 0o644) }
}

pub fn symlink(path: &str, target: impl Into<Vec<u8>>) -> Node {
    let target: Vec<u8> = target.into();
    Node::new(path, EntryKind::Symlink { target: target.into() }, 0o777)
}

/// The target's attributes must be said again: a hard link's entry speaks for the file.
pub fn hard_link(path: &str, target: &str) -> Node {
    let target = EntryPath::parse(target.as_bytes()).unwrap();
    Node::new(path, EntryKind::HardLink { target }, 0o644)
}

pub fn char_device(path: &str, major: u32, minor: u32) -> Node {
    Node::new(path, EntryKind::CharDevice { major, minor }, 0o666)
}

pub fn block_device(path: &str, major: u32, minor: u32) -> Node {
    Node::new(path, EntryKind::BlockDevice { major, minor }, 0o660)
}

pub fn fifo(path: &str) -> Node {
    Node::new(path, EntryKind::Fifo, 0o600)
}

/// Bytes that tell where they come from: the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let word = |at: u64| (at ^ seed << 32).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    (0..len.div_ceil(8) as u64).flat_map(word).take(len).collect()
}

/// An image as layerfs needs it.
pub struct Image {
    /// The launch index, raw.
    pub index: Vec<u8>,
    /// Its layers' converted blobs.
    pub blobs: Vec<(Digest, Vec<u8>)>,
    /// How many layers it has.
    pub layers: u16,
}

impl Image {
    /// An image of these layers, the lowest first.
    pub fn new(layers: Vec<Vec<Node>>) -> Self {
        let mut tree = TreeBuilder::new();
        let (mut launch_layers, mut blobs) = (Vec::new(), Vec::new());
        for nodes in layers {
            let (entries, tar) = lay_out(nodes);
            tree.push_layer(entries).unwrap();
            let (layer, blob) = convert(&tar);
            blobs.push((layer.converted.digest, blob));
            launch_layers.push(layer);
        }
        let index = launch::write(&launch_layers, tree.finish()).unwrap();
        Self { index, blobs, layers: u16::try_from(launch_layers.len()).unwrap() }
    }
}

/// Gives every content its place.
fn lay_out(nodes: Vec<Node>) -> (Vec<Entry>, Vec<u8>) {
    // A layer has at least one span.
    let mut tar = vec![0; 512];
    let mut entries = Vec::new();
    for Node { mut entry, content } in nodes {
        if let EntryKind::Regular { content: place, .. } = &mut entry.kind {
            let start = tar.len() as u64;
            match place {
                Content::Contiguous(offset) => *offset = TarOffset(start),
                Content::Sparse(extents) => {
                    extents.iter_mut().for_each(|extent| extent.tar_offset.0 += start);
                }
            }
            tar.extend_from_slice(&content);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        entries.push(entry);
    }
    (entries, tar)
}

fn convert(tar: &[u8]) -> (LaunchLayer, Vec<u8>) {
    let (mut blob, mut spans) = (Vec::new(), Vec::new());
    for (at, part) in tar.chunks(SPAN).enumerate() {
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(part.len()));
        zstd_safe::compress(&mut frame, part, 1).unwrap();
        spans.push(Span {
            blob_offset: BlobOffset(blob.len() as u64),
            compressed_len: u32::try_from(frame.len()).unwrap(),
            tar_offset: TarOffset((at * SPAN) as u64),
            tar_len: u32::try_from(part.len()).unwrap(),
            digest: SpanDigest(*blake3::hash(&frame).as_bytes()),
        });
        blob.extend(frame);
    }
    let converted =
        Blob { digest: Digest::of(&blob), len: blob.len() as u64, compression: Compression::Zstd };
    let (tar_len, scope) = (tar.len() as u64, DigestScope::Compressed);
    let diff_id = DiffId(Digest::of(tar));
    (LaunchLayer { diff_id, original: converted, converted, tar_len, scope, spans }, blob)
}
