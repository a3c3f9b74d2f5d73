//! One layer's tar on disk, as far as it has been needed.
//!
//! A disk that cannot hold it (full, read-only, broken) is no error: nothing is present then, and every span that
//! arrives tries the disk again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::StoreError;
use super::presence::Presence;
use crate::verify::TarBytes;

/// Bytes a presence bit stands for. Files start at multiples of it in a tar, and so do spans.
const BLOCK: u64 = 512;

/// A sparse file with the layer's tar, and which blocks of it are there.
pub struct LayerFile {
    directory: PathBuf,
    tar_len: u64,
    disk: OnceLock<OnDisk>,
    /// One opens at a time.
    opening: Mutex<()>,
}

struct OnDisk {
    data: File,
    presence: Presence,
}

impl LayerFile {
    /// The file of a layer that is kept in `directory`.
    pub(super) fn open(directory: PathBuf, tar_len: u64) -> Self {
        let file = Self { directory, tar_len, disk: OnceLock::new(), opening: Mutex::default() };
        if let Err(error) = file.on_disk() {
            tracing::warn!(%error, cause = %error.source, "a layer cannot be kept for now; it is served from memory");
        }
        file
    }

    /// Whether every byte of a tar range is there.
    pub fn has(&self, range: &Range<u64>) -> bool {
        let present = |disk: &OnDisk| disk.presence.all(outer_blocks(range));
        range.is_empty() || range.end <= self.tar_len && self.disk.get().is_some_and(present)
    }

    /// Reads a range that [`has`](Self::has) said is there.
    ///
    /// # Errors
    /// The disk fails, or the file was cut behind our back.
    pub fn read(&self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        if !range.is_empty() {
            let disk = self.disk.get().ok_or(io::ErrorKind::NotFound)?;
            disk.data.read_exact_at(&mut bytes, range.start)?;
        }
        Ok(bytes)
    }

    /// Keeps verified bytes.
    ///
    /// # Errors
    /// The disk is full or fails; nothing is marked as present then.
    pub fn keep(&self, bytes: &TarBytes) -> io::Result<()> {
        let range = bytes.range();
        if range.end > self.tar_len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "bytes beyond the end of the layer"));
        }
        let disk = self.on_disk().map_err(|error| error.source)?;
        disk.data.write_all_at(bytes.bytes(), range.start)?;
        disk.presence.set(self.inner_blocks(&range));
        Ok(())
    }

    /// Bytes present, rounded to blocks.
    pub fn present_bytes(&self) -> u64 {
        let blocks = self.disk.get().map_or(0, |disk| disk.presence.count());
        (blocks as u64 * BLOCK).min(self.tar_len)
    }

    /// Makes what is present survive a power cut.
    ///
    /// # Errors
    /// The disk fails; what was written down before still holds.
    pub fn persist(&self) -> Result<(), StoreError> {
        let Some(disk) = self.disk.get() else { return Ok(()) };
        let fail =
            |source| StoreError { path: self.directory.clone(), what: "write down what is present", source };
        disk.presence.persist(&self.directory, &disk.data).map_err(fail)
    }

    /// The files, opened if they are not yet.
    fn on_disk(&self) -> Result<&OnDisk, StoreError> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        match self.disk.get() {
            Some(disk) => Ok(disk),
            None => {
                let disk = OnDisk::open(&self.directory, self.tar_len)?;
                Ok(self.disk.get_or_init(|| disk))
            }
        }
    }

    /// The blocks that lie wholly within a range; the layer's last block may be short.
    fn inner_blocks(&self, range: &Range<u64>) -> Range<usize> {
        let end = if range.end == self.tar_len { range.end.div_ceil(BLOCK) } else { range.end / BLOCK };
        index(range.start.div_ceil(BLOCK))..index(end)
    }
}

impl OnDisk {
    fn open(directory: &Path, tar_len: u64) -> Result<Self, StoreError> {
        let fail = |what| move |source| StoreError { path: directory.to_owned(), what, source };
        std::fs::create_dir_all(directory).map_err(fail("create the layer's directory"))?;
        let data =
            File::options().create(true).truncate(false).read(true).write(true).open(directory.join("data"));
        let data = data.map_err(fail("open the layer's data"))?;
        if data.metadata().map_err(fail("look at the layer's data"))?.len() != tar_len {
            // Also heals a `data` that was lost while `present` was not: what is gone reads as absent below.
            std::fs::remove_file(directory.join("present")).or_else(ignore_missing).map_err(fail("reset"))?;
            std::fs::remove_file(directory.join("live")).or_else(ignore_missing).map_err(fail("reset"))?;
            data.set_len(tar_len).map_err(fail("size the layer's data"))?;
        }
        let blocks = usize::try_from(tar_len.div_ceil(BLOCK)).unwrap_or(usize::MAX);
        let presence = Presence::open(directory, blocks).map_err(fail("read what is present"))?;
        Ok(Self { data, presence })
    }
}

/// The blocks that a range touches.
fn outer_blocks(range: &Range<u64>) -> Range<usize> {
    index(range.start / BLOCK)..index(range.end.div_ceil(BLOCK))
}

fn index(block: u64) -> usize {
    usize::try_from(block).unwrap_or(usize::MAX)
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
