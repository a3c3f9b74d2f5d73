//! A file system of one's own, mounted and served by this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jaunt_formats::launch::{self, Blob, Compression, LaunchLayer};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{
    BlobOffset, Content, DiffId, Digest, DigestScope, Entry, EntryKind, EntryPath, Span, SpanDigest,
    TarOffset, Timestamp,
};
use jaunt_layerfs::fs::{LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse::mount::detach;
use jaunt_layerfs::fuse::{self, Adapter, MountOptions, SessionHandle};
use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::source::Source;
use jaunt_layerfs::store::Store;
use jaunt_tests::error::{At as _, Error, Result};
use tokio::runtime::Runtime;

/// As many as the daemon has for a mount.
const THREADS: usize = 2;

/// A mount. It is gone when this is.
pub struct Served {
    point: PathBuf,
    session: Option<SessionHandle>,
}

impl Served {
    /// Mounts the first `prefix` layers of the index in `file` on `point`, a directory that is made.
    pub fn new(
        runtime: &Runtime,
        (file, prefix): (&Path, u16),
        point: &Path,
        layers: &Layers,
        sources: &[Arc<dyn Source>],
    ) -> Result<Self> {
        fs::create_dir_all(point).at(point)?;
        let _context = runtime.enter();
        let index = open_index(file).map_err(|error| wrong(point, &error))?;
        let fs = LayerFs::new(index, prefix, "bench".to_owned(), layers, sources)
            .map_err(|error| wrong(point, &error))?;
        let mounted =
            fuse::mount::mount(point, &MountOptions::default()).map_err(|error| wrong(point, &error))?;
        let mut served = Self { point: point.to_owned(), session: None };
        let adapter = Adapter::new(Arc::new(fs), runtime.handle().clone());
        let session = fuse::serve(adapter, mounted.device, &mounted.negotiated, THREADS);
        served.session = Some(session.map_err(|error| wrong(point, &error))?);
        Ok(served)
    }

    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        self.point.join(ROOT_NAME)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let detached = detach(&self.point);
        if let Some(session) = self.session.take().filter(|_| detached.is_ok()) {
            let _ = session.join();
        }
    }
}

/// A store in `dir`, and the layers of a node that has it.
pub fn node(dir: &Path, settings: Settings) -> Result<Layers> {
    let store = Store::open(dir).map_err(|error| wrong(dir, &error))?;
    Ok(Layers::new(Arc::new(store), settings))
}

/// A runtime such as the daemon's.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().at("a runtime")
}

/// A layer of spans that lie one after the other: its tar, compressed span by span.
pub fn layer(tar: &[u8], span: usize) -> Result<(LaunchLayer, Bytes)> {
    let (mut blob, mut spans) = (Vec::new(), Vec::new());
    for (at, part) in tar.chunks(span).enumerate() {
        let frame = zstd::bulk::compress(part, 3).at("zstd")?;
        spans.push(Span {
            blob_offset: BlobOffset(blob.len() as u64),
            compressed_len: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            tar_offset: TarOffset((at * span) as u64),
            tar_len: u32::try_from(part.len()).unwrap_or(u32::MAX),
            digest: SpanDigest(*blake3::hash(&frame).as_bytes()),
        });
        blob.extend(frame);
    }
    let (digest, len) = (Digest::of(&blob), blob.len() as u64);
    let converted = Blob { digest, len, compression: Compression::Zstd };
    let layer = LaunchLayer {
        diff_id: DiffId(Digest::of(tar)),
        original: converted,
        converted,
        tar_len: tar.len() as u64,
        scope: DigestScope::Compressed,
        spans,
    };
    Ok((layer, blob.into()))
}

/// A regular file whose content lies at `offset` of the tar.
pub fn file(path: &str, offset: u64, size: u64) -> Result<Entry> {
    entry(path, EntryKind::Regular { size, content: Content::Contiguous(TarOffset(offset)) }, 0o644)
}

/// A directory.
pub fn dir(path: &str) -> Result<Entry> {
    entry(path, EntryKind::Directory, 0o755)
}

/// Writes the launch index of an image of these layers.
pub fn write_index(to: &Path, layers: &[LaunchLayer], entries: Vec<Vec<Entry>>) -> Result<()> {
    let mut tree = TreeBuilder::new();
    for entries in entries {
        tree.push_layer(entries).map_err(|error| wrong(to, &error))?;
    }
    let bytes = launch::write(layers, tree.finish()).map_err(|error| wrong(to, &error))?;
    fs::write(to, bytes).at(to)
}

/// What the library says, about what.
pub fn wrong(what: &Path, error: &dyn std::error::Error) -> Error {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Error::unexpected(what.display().to_string(), format!("{error}{cause}"))
}

fn entry(path: &str, kind: EntryKind, mode: u32) -> Result<Entry> {
    let path = EntryPath::parse(path.as_bytes()).map_err(|error| wrong(Path::new(path), &error))?;
    let mtime = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };
    Ok(Entry { path, kind, mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() })
}
