//! Layers of which all is there and was found to be what it must be.
//!
//! ```text
//! <cut>/complete       the layer is complete: its bytes, the record and the names of its files are lasting
//! <cut>/handed-out     the kernel was given large files to read by itself: from then on they are only removed
//! <cut>/mounted        it was given all files, as the blocks of a file system: they are only removed, all of them together
//! ```
//!
//! `complete` is the one claim that is believed without another look, since the kernel reads large files without
//! asking. It is put in place when all else is lasting, and is lastingly gone before any of it is taken away.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use super::layer_file::LayerFile;
use super::on_disk::OnDisk;
use super::{StoreError, disk};

const COMPLETE: &str = "complete";
pub(super) const HANDED_OUT: &str = "handed-out";
pub(super) const MOUNTED: &str = "mounted";
/// What the kernel mounts must be whole blocks: it takes a file's end within one for an error.
const BLOCK: u64 = 512;

/// A complete layer. None of it is taken away to make room while this lives.
pub struct CompleteLayer {
    file: Arc<LayerFile>,
    /// How often it had been found damaged before.
    damages: u64,
    _held: Held,
}

/// How many hold a layer complete.
#[derive(Clone, Default)]
pub(super) struct Holders(Arc<AtomicUsize>);

struct Held(Holders);

impl LayerFile {
    /// Whether all of it is there and was found to be what it must be.
    pub fn is_complete(&self) -> bool {
        self.disk().is_some_and(|disk| disk.complete.load(Ordering::Acquire))
    }

    /// Holds a complete layer as it is; `None` if it is not complete.
    pub fn hold_complete(self: &Arc<Self>) -> Option<CompleteLayer> {
        let disk = self.disk()?;
        // Who takes units away looks for holders behind this gate.
        let _gate = disk.gate.read().unwrap_or_else(PoisonError::into_inner);
        let held = Held::new(&self.holders);
        let damages = disk.damages.load(Ordering::Acquire);
        self.is_complete().then(|| CompleteLayer { file: self.clone(), damages, _held: held })
    }

    /// Notes that the layer is complete. The caller has read all of it, and found it to be what it must be.
    ///
    /// # Errors
    /// Something of it has gone meanwhile, or the disk cannot make it last. It is not complete then.
    pub fn mark_complete(&self) -> Result<(), StoreError> {
        let disk = self.on_disk()?;
        let _changing = disk.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |source| StoreError {
            path: disk.directory.clone(),
            what: "note that the layer is complete",
            source,
        };
        self.mark(disk).map_err(fail)
    }

    fn mark(&self, disk: &OnDisk) -> io::Result<()> {
        if !disk.record.all(0..self.cut.units()) {
            return Err(io::Error::other("a part of it is gone"));
        }
        disk.sync()?;
        disk.marked.store(true, Ordering::Release);
        disk::replace(&disk.directory.join(COMPLETE), b"")?;
        disk::sync_dir(&disk.directory)?;
        disk.complete.store(true, Ordering::Release);
        // Who marks it has read all of it.
        self.scrubbed.store(self.shared.now().0, Ordering::Relaxed);
        Ok(())
    }
}

impl CompleteLayer {
    /// A file that holds exactly this range of the tar from its first byte on, and nothing else, to be read by the
    /// kernel. `None` if there is none, or there is more behind the range's end ([`blocks`](Self::blocks)), or the layer
    /// turned out to be damaged after all.
    ///
    /// # Errors
    /// The disk fails.
    pub fn backing(&self, content: &Range<u64>) -> io::Result<Option<File>> {
        let Some(disk) = self.file.disk() else { return Ok(None) };
        let _changing = disk.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !disk.complete.load(Ordering::Acquire) {
            return Ok(None);
        }
        if disk.mounted.load(Ordering::Acquire) && !is_whole(content) {
            return Ok(None);
        }
        if !disk.handed_out.load(Ordering::Acquire) {
            std::fs::write(disk.directory.join(HANDED_OUT), b"")?;
            disk.handed_out.store(true, Ordering::Release);
        }
        disk.files.open_large(content)
    }

    /// A file for the kernel to mount, in whole blocks: the packed one, which holds all but the large files at its offsets in the
    /// tar, or that of a large file. `None` if there is none, or it may be read as it is ([`backing`](Self::backing)), or
    /// the layer turned out to be damaged after all. `len` is the length of what it holds.
    ///
    /// # Errors
    /// The disk fails.
    pub fn blocks(&self, large: Option<&Range<u64>>, len: u64) -> io::Result<Option<File>> {
        let Some(disk) = self.file.disk() else { return Ok(None) };
        let _changing = disk.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_read = disk.handed_out.load(Ordering::Acquire) && large.is_some_and(|range| !is_whole(range));
        if !disk.complete.load(Ordering::Acquire) || is_read {
            return Ok(None);
        }
        if !disk.mounted.load(Ordering::Acquire) {
            std::fs::write(disk.directory.join(MOUNTED), b"")?;
            disk.mounted.store(true, Ordering::Release);
        }
        let len = len.next_multiple_of(BLOCK);
        match large {
            Some(range) => disk.files.extend_large(range, len),
            None => disk.files.extend_packed(len).map(Some),
        }
    }

    /// Whether it has been complete ever since it is held so. One that was damaged and is whole again is not what it was to
    /// the kernel, which may have kept what it read meanwhile.
    pub fn is_sound(&self) -> bool {
        let damages = self.file.disk().map(|disk| disk.damages.load(Ordering::Acquire));
        self.file.is_complete() && damages == Some(self.damages)
    }

    /// The layer.
    pub fn file(&self) -> &Arc<LayerFile> {
        &self.file
    }
}

impl Holders {
    /// Whether anybody does. Stays so for who holds the gate alone.
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Held {
    fn new(holders: &Holders) -> Self {
        holders.0.fetch_add(1, Ordering::AcqRel);
        Self(holders.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether a range is whole blocks.
fn is_whole(range: &Range<u64>) -> bool {
    (range.end - range.start).is_multiple_of(BLOCK)
}

pub(super) fn is_marked(directory: &Path) -> bool {
    directory.join(COMPLETE).exists()
}

/// Removes the mark, lastingly.
pub(super) fn unmark(directory: &Path) -> io::Result<()> {
    disk::remove(&directory.join(COMPLETE))?;
    disk::sync_dir(directory)
}
