//! The two records of which blocks of a layer are present.
//!
//! ```text
//! present, live:   0  8  magic "JAUNTBM1"     8  8  bits     16 16  boot id (live) or zero (present)
//!                 32 32  BLAKE3 of the bitmap (present) or zero (live)     64  bitmap, u64 words
//! ```
//! Integers are little-endian. `present` replaces its predecessor by rename, after the data was synced.
//! `live` is overwritten in place as blocks arrive: its bits and the data lie in one page cache, so both survive
//! the daemon, and neither is believed once the boot id has changed.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bitmap::Bitmap;

const MAGIC: &[u8; 8] = b"JAUNTBM1";
const HEADER_LEN: usize = 64;

pub(super) struct Presence {
    bitmap: Bitmap,
    bits: usize,
    live: File,
    /// Blocks have come since `present` was written.
    news: AtomicBool,
}

impl Presence {
    /// Reads what can be believed; starts empty where nothing can.
    pub(super) fn open(directory: &Path, bits: usize) -> io::Result<Self> {
        let boot_id = boot_id();
        let believed =
            read(&directory.join("live"), bits, |header, _| boot_id.is_some_and(|id| header[16..32] == id))?;
        let carried_on = believed.is_some();
        let bitmap = match believed {
            Some(bitmap) => bitmap,
            None => read(&directory.join("present"), bits, |header, bitmap| {
                *blake3::hash(bitmap).as_bytes() == header[32..64]
            })?
            .unwrap_or_else(|| Bitmap::new(bits)),
        };
        // What is believed stays as it is: a full disk could not take it a second time.
        let mut options = File::options();
        let live = options.create(true).truncate(!carried_on).write(true).open(directory.join("live"))?;
        if !carried_on {
            let bytes = bitmap.to_bytes();
            live.write_all_at(&header(bits, boot_id.unwrap_or_default(), [0; 32]), 0)?;
            live.write_all_at(&bytes, HEADER_LEN as u64)?;
        }
        // A predecessor may have been killed before it could write down its latest blocks.
        Ok(Self { bitmap, bits, live, news: AtomicBool::new(carried_on) })
    }

    pub(super) fn all(&self, blocks: Range<usize>) -> bool {
        self.bitmap.all(blocks)
    }

    pub(super) fn count(&self) -> usize {
        self.bitmap.count()
    }

    /// Marks blocks whose bytes have just been written.
    pub(super) fn set(&self, blocks: Range<usize>) {
        self.bitmap.set(blocks.clone());
        self.news.store(true, Ordering::Release);
        let (at, bytes) = self.bitmap.bytes_around(&blocks);
        // On a full disk the record only lags behind: the blocks are fetched again after a crash.
        if let Err(error) = self.live.write_all_at(&bytes, (HEADER_LEN + at) as u64) {
            tracing::debug!(%error, "cannot note which blocks are present");
        }
    }

    /// Syncs `data`, then writes down what had been in it before. Does nothing without news.
    pub(super) fn persist(&self, directory: &Path, data: &File) -> io::Result<()> {
        if !self.news.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let bytes = self.bitmap.to_bytes();
        if let Err(error) = data.sync_data() {
            self.forget(directory)?;
            return Err(error);
        }
        let written = self.write_present(directory, &bytes);
        if written.is_err() {
            self.news.store(true, Ordering::Release);
        }
        written
    }

    /// Believes nothing any more. After a failed sync the kernel drops what it could not write and says so
    /// once: the next sync would succeed over holes.
    fn forget(&self, directory: &Path) -> io::Result<()> {
        self.bitmap.clear();
        self.live.write_all_at(&self.bitmap.to_bytes(), HEADER_LEN as u64)?;
        match std::fs::remove_file(directory.join("present")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write_present(&self, directory: &Path, bitmap: &[u8]) -> io::Result<()> {
        let (path, temporary) = (directory.join("present"), directory.join("present.new"));
        let file = File::create(&temporary)?;
        file.write_all_at(&header(self.bits, [0; 16], *blake3::hash(bitmap).as_bytes()), 0)?;
        file.write_all_at(bitmap, HEADER_LEN as u64)?;
        file.sync_data()?;
        std::fs::rename(temporary, path)
    }
}

fn header(bits: usize, boot_id: [u8; 16], checksum: [u8; 32]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&(bits as u64).to_le_bytes());
    header[16..32].copy_from_slice(&boot_id);
    header[32..].copy_from_slice(&checksum);
    header
}

/// The bitmap in a file, if the file is whole and `believed`. A missing or odd one is simply not believed.
fn read(path: &Path, bits: usize, believed: impl Fn(&[u8], &[u8]) -> bool) -> io::Result<Option<Bitmap>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some((header, bitmap)) = bytes.split_at_checked(HEADER_LEN) else { return Ok(None) };
    let sound =
        &header[..8] == MAGIC && header[8..16] == (bits as u64).to_le_bytes() && believed(header, bitmap);
    Ok(if sound { Bitmap::from_bytes(bits, bitmap) } else { None })
}

/// This boot's id. `None` where the kernel does not tell: then `live` is never believed.
fn boot_id() -> Option<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let hash = blake3::hash(text.trim().as_bytes());
    hash.as_bytes().first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_leaves_nothing_to_believe() {
        let directory = tempfile::tempdir().unwrap();
        let presence = Presence::open(directory.path(), 100).unwrap();
        let data = File::create(directory.path().join("data")).unwrap();
        presence.set(0..50);
        presence.persist(directory.path(), &data).unwrap();
        assert!(directory.path().join("present").exists());
        presence.set(50..100);
        // The null device cannot be synced.
        let broken = File::open("/dev/null").unwrap();
        presence.persist(directory.path(), &broken).unwrap_err();
        assert_eq!(presence.count(), 0);
        assert_eq!(Presence::open(directory.path(), 100).unwrap().count(), 0);
    }
}
