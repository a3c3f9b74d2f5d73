//! The file system itself, without FUSE: inodes, names and bytes of a chain of layers.
//!
//! Inode numbers are those of the index, so another process that opens the same index answers for them
//! ([`Ino`], [`RootPlace`]).

mod ahead;
mod booted;
mod complete;
mod condemned;
mod error;
mod foresight;
mod hot;
mod numbers;
mod path;
mod programs;
mod stretch;
mod touches;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use jaunt_formats::entry::NAME_MAX;
use jaunt_formats::launch::{Attributes, InodeId, InodeType, LaunchError, View};
use jaunt_formats::{Timestamp, Xattr};

pub(crate) use ahead::Streams;
pub use complete::CompleteChain;
pub use condemned::Condemned;
pub use error::FsError;
pub(crate) use hot::HotFile;
pub(crate) use numbers::{FIRST_INODE, KernelNumbers};
pub use numbers::{Ino, MOUNT_ROOT, ROOT_NAME, RootPlace};

use crate::boot::{Boot, FirstTouches};
use crate::index_file::MappedIndex;
use crate::layer::Layer;
use crate::layers::Layers;
use crate::metrics::{Metrics, Stalls};
use crate::source::Source;
use crate::store::{LargeFiles, Store};
use crate::trace::Trace;
use crate::trouble_log::TroubleLog;
use numbers::Numbers;
use programs::Programs;
use stretch::{Stretch, stretches};
use touches::Touches;

/// Files of this size are read here and there by some (databases, archives): what lies around two misses in one is not
/// fetched as well, and each of them costs what it must. Who reads one in sequence has it fetched ahead of him.
const LARGE: u64 = 4 << 20;

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'f> {
    /// Its name.
    pub name: &'f [u8],
    /// Its inode.
    pub ino: Ino,
    /// Its type.
    pub kind: InodeType,
    /// Where to go on after it.
    pub next: u64,
}

/// A mounted chain: the first `prefix` layers of an index.
pub struct LayerFs {
    index: MappedIndex,
    prefix: u16,
    numbers: Numbers,
    name: String,
    layers: Vec<Layer>,
    store: Arc<Store>,
    has_xattrs: bool,
    answers_xattrs: AtomicBool,
    is_read_directly: AtomicBool,
    metrics: Metrics,
    stalls: Stalls<Ino>,
    troubles: TroubleLog<Ino>,
    streams: Streams,
    programs: Programs,
    boot: Option<Arc<Boot>>,
    touches: Touches,
    first_touches: OnceLock<Arc<FirstTouches>>,
    kernel_numbers: OnceLock<Arc<dyn KernelNumbers>>,
}

impl LayerFs {
    /// The first `prefix` layers of `index`, named `name` in messages, shared with all mounts of `layers`; their
    /// content may come from any of `sources`.
    ///
    /// # Errors
    /// The index has fewer layers or no root directory.
    pub fn new(
        index: MappedIndex,
        prefix: u16,
        name: String,
        layers: &Layers,
        sources: &[Arc<dyn Source>],
    ) -> Result<Self, FsError> {
        let view = index.view(prefix).ok_or(LaunchError::Malformed("fewer layers than asked for"))?;
        let numbers = Numbers { root: view.root()?, place: RootPlace::Below };
        let touches = Touches::new(layers.trace(), &name);
        let (store, metrics) = (layers.store().clone(), layers.metrics().clone());
        let mounted = &index.layers()[..usize::from(prefix)];
        let large = LargeFiles::of_layers(&index);
        let layers = mounted.iter().zip(&large).map(|(layer, large)| layers.open(layer, large, sources));
        let layers = layers.collect();
        let has_xattrs = index.has_xattrs();
        let (stalls, troubles, streams) = (Stalls::default(), TroubleLog::default(), Streams::default());
        Ok(Self {
            index,
            prefix,
            numbers,
            name,
            layers,
            store,
            has_xattrs,
            answers_xattrs: AtomicBool::new(false),
            is_read_directly: AtomicBool::new(false),
            metrics,
            stalls,
            troubles,
            streams,
            programs: Programs::default(),
            boot: None,
            touches,
            first_touches: OnceLock::new(),
            kernel_numbers: OnceLock::new(),
        })
    }

    /// The same, with its root directory in another place.
    #[must_use]
    pub fn with_root(self, place: RootPlace) -> Self {
        Self { numbers: Numbers { place, ..self.numbers }, ..self }
    }

    /// The index, how many of its layers are mounted, and where.
    pub(crate) fn tree(&self) -> (&MappedIndex, u16, RootPlace) {
        (&self.index, self.prefix, self.numbers.place)
    }

    /// What the kernel calls its inodes: what `begin` makes of it where nobody has said, and that from then on.
    pub(crate) fn kernel_numbers(
        &self,
        begin: impl FnOnce() -> Arc<dyn KernelNumbers>,
    ) -> Arc<dyn KernelNumbers> {
        self.kernel_numbers.get_or_init(begin).clone()
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who is told what happens.
    pub(crate) fn trace(&self) -> &Trace {
        self.touches.trace()
    }

    /// Adds places that its content may be fetched from.
    pub fn learn(&self, sources: &[Arc<dyn Source>]) {
        self.layers.iter().for_each(|layer| layer.learn(sources));
    }

    /// The index that it shows.
    pub fn index(&self) -> &MappedIndex {
        &self.index
    }

    /// How many of the index's layers it has.
    pub fn prefix(&self) -> u16 {
        self.prefix
    }

    /// Its layers, the lowest first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// What its readers have waited for.
    pub fn stalls(&self) -> &Stalls<Ino> {
        &self.stalls
    }

    /// What of it fails, and has been told of.
    pub(crate) fn troubles(&self) -> &TroubleLog<Ino> {
        &self.troubles
    }

    /// Has the kernel ask for extended attributes also where no file has one, from a mount's first request on. An overlay
    /// asks for one of each regular file that is looked up, and it is answered with a round trip; but programs that
    /// compare trees, containerd's differ among them, take "none" for an answer and "not supported" for a failure.
    pub fn answer_xattrs(&self, always: bool) {
        self.answers_xattrs.store(always, Ordering::Relaxed);
    }

    /// Whether the kernel is to ask for extended attributes. Told once that it need not, it never does.
    pub fn answers_xattrs(&self) -> bool {
        self.has_xattrs || self.answers_xattrs.load(Ordering::Relaxed)
    }

    /// Whether any file has an access list, which the kernel is to enforce.
    pub fn has_acls(&self) -> bool {
        self.has_xattrs && self.index.has_acls()
    }

    /// Where content is kept, for `statfs`.
    pub fn store_path(&self) -> &Path {
        self.store.root()
    }

    /// The child `name` of a directory, or `None`.
    ///
    /// # Errors
    /// `parent` is no directory, or the name too long for any file.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>, FsError> {
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        if self.numbers.is_holder(parent) {
            return Ok((name == ROOT_NAME.as_bytes()).then(|| self.ino(self.numbers.root)));
        }
        let dir = self.directory(parent)?;
        Ok(self.view()?.lookup(dir, name)?.map(|inode| self.ino(inode)))
    }

    /// What `stat` tells of an inode.
    ///
    /// # Errors
    /// There is no such inode.
    pub fn attributes(&self, inode: Ino) -> Result<Attributes, FsError> {
        if self.numbers.is_holder(inode) {
            let kind = InodeType::Directory;
            let mtime = Timestamp::default();
            return Ok(Attributes { kind, mode: 0o755, uid: 0, gid: 0, size: 0, mtime, nlink: 1 });
        }
        Ok(self.index.attributes(self.inode(inode)?)?)
    }

    /// The entries of a directory from `next` of an earlier entry, or from the start with 0; `.` and `..` first.
    ///
    /// # Errors
    /// It is no directory.
    pub fn entries(
        &self,
        dir: Ino,
        from: u64,
    ) -> Result<impl Iterator<Item = Result<DirEntry<'_>, FsError>> + '_, FsError> {
        let is_holder = self.numbers.is_holder(dir);
        let parent = if is_holder { dir } else { self.parent(dir)? };
        let dots = [(&b"."[..], dir), (b"..", parent)].into_iter().zip(1..);
        let dots =
            dots.map(|((name, ino), next)| Ok(DirEntry { name, ino, kind: InodeType::Directory, next }));
        let fs = is_holder.then(|| {
            let ino = self.ino(self.numbers.root);
            Ok(DirEntry { name: ROOT_NAME.as_bytes(), ino, kind: InodeType::Directory, next: 3 })
        });
        let children = if is_holder {
            None
        } else {
            Some(self.view()?.children(self.directory(dir)?, from.saturating_sub(2))?.map(|child| {
                let child = child?;
                let kind = self.index.attributes(child.inode)?.kind;
                Ok(DirEntry { name: child.name, ino: self.ino(child.inode), kind, next: child.next + 2 })
            }))
        };
        let own = dots.chain(fs).skip(usize::try_from(from).unwrap_or(usize::MAX));
        Ok(own.chain(children.into_iter().flatten()))
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// It is no symbolic link.
    pub fn symlink_target(&self, inode: Ino) -> Result<&[u8], FsError> {
        let inode = self.inode(inode)?;
        if self.index.attributes(inode)?.kind != InodeType::Symlink {
            return Err(FsError::WrongType);
        }
        Ok(self.index.symlink_target(inode)?)
    }

    /// The extended attributes of an inode.
    ///
    /// # Errors
    /// There is no such inode.
    pub fn xattrs(&self, inode: Ino) -> Result<Vec<Xattr>, FsError> {
        if self.numbers.is_holder(inode) {
            return Ok(Vec::new());
        }
        Ok(self.index.xattrs(self.inode(inode)?)?)
    }

    /// Up to `len` bytes of a file from `offset`, if all of them are local; fewer at its end.
    ///
    /// # Errors
    /// It is no regular file, or the disk failed.
    pub fn read_local(&self, inode: Ino, offset: u64, len: u32) -> Result<Option<Vec<u8>>, FsError> {
        let touch = self.touches.begin();
        let (number, stretches, size) = self.plan(inode, offset, len)?;
        if let Some(touches) = self.first_touches.get() {
            let is_program = || self.attributes(inode).is_ok_and(|told| told.mode & 0o111 != 0);
            touches.note(inode.0, offset..offset.saturating_add(len.into()).min(size), is_program);
        }
        let mut bytes = Vec::new();
        for stretch in stretches {
            match stretch {
                Stretch::Zeros(len) => bytes.resize(bytes.len() + usize_of(len), 0),
                Stretch::Tar(range) => match self.local_bytes(number, &range)? {
                    Some(part) if bytes.is_empty() => bytes = part.into(),
                    Some(part) => bytes.extend_from_slice(&part),
                    None => return Ok(None),
                },
            }
        }
        self.metrics.note_read(bytes.len());
        self.touches.end(touch, inode, offset, bytes.len(), false);
        Ok(Some(bytes))
    }

    /// As [`read_local`](Self::read_local), but fetches what is missing. Cancel-safe.
    ///
    /// # Errors
    /// It is no regular file, or its bytes can neither be read nor fetched.
    pub async fn read(&self, inode: Ino, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        let (begun, touch) = (Instant::now(), self.touches.begin());
        let read = self.read_missing(inode, offset, len).await;
        let waited = begun.elapsed();
        self.stalls.note(inode, waited);
        self.metrics.note_miss(waited, read.as_ref().ok().map(Vec::len));
        self.touches.end(touch, inode, offset, read.as_ref().map_or(0, Vec::len), true);
        read
    }

    async fn read_missing(&self, inode: Ino, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        let (number, stretches, size) = self.plan(inode, offset, len)?;
        let alone = size >= LARGE && !self.programs.has(inode.0);
        let mut bytes = Vec::new();
        for stretch in stretches {
            match stretch {
                Stretch::Zeros(len) => bytes.resize(bytes.len() + usize_of(len), 0),
                Stretch::Tar(range) => bytes.append(&mut self.bytes(number, range, alone).await?),
            }
        }
        Ok(bytes)
    }

    /// The number of the layer that has a range of a file, where in its tar it is, and the file's size.
    fn plan(&self, inode: Ino, offset: u64, len: u32) -> Result<(u16, Vec<Stretch>, u64), FsError> {
        let inode = self.inode(inode)?;
        if self.index.attributes(inode)?.kind != InodeType::Regular {
            return Err(FsError::WrongType);
        }
        let content = self.index.content(inode)?;
        let end = offset.saturating_add(len.into()).min(content.size);
        Ok((content.layer, stretches(&content.extents, offset..end), content.size))
    }

    fn layer(&self, number: u16) -> Result<&Layer, LaunchError> {
        let layer = self.layers.get(usize::from(number));
        layer.ok_or(LaunchError::Malformed("content of a layer above the mounted ones"))
    }

    fn view(&self) -> Result<View<'_, memmap2::Mmap>, LaunchError> {
        self.index.view(self.prefix).ok_or(LaunchError::Malformed("fewer layers than asked for"))
    }

    fn parent(&self, dir: Ino) -> Result<Ino, FsError> {
        let dir = self.directory(dir)?;
        // The mount's root is its own parent; the kernel shows what lies above the mount.
        Ok(if dir == self.numbers.root { MOUNT_ROOT } else { self.ino(self.view()?.parent(dir)?) })
    }

    fn directory(&self, dir: Ino) -> Result<InodeId, FsError> {
        let dir = self.inode(dir)?;
        match self.index.attributes(dir)?.kind {
            InodeType::Directory => Ok(dir),
            _ => Err(FsError::NotADirectory),
        }
    }

    fn inode(&self, ino: Ino) -> Result<InodeId, FsError> {
        self.numbers.inode(ino, self.index.inode_count()).ok_or(FsError::NotFound)
    }

    fn ino(&self, inode: InodeId) -> Ino {
        self.numbers.ino(inode)
    }
}

/// Lengths here are at most the `u32` that a read asks for.
fn usize_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or_default()
}
