//! The files that hold a layer's tar: one for all that is small, and one for each large file.
//!
//! The packed file holds small files at their offsets in the tar; a large file is held from its first byte on. Files
//! come into being when they are first written to.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use lru::LruCache;
use rustix::buffer::spare_capacity;
use rustix::fs::FallocateFlags;

use super::direct::ReadFrom;
use super::large::LargeFiles;
use super::sync::{Mutex, RwLock};
use super::{direct, disk, soon};

/// The packed file's name, and that of the directory of large ones.
const PACKED: &str = "data";
const LARGE: &str = "large";
/// Large files of a layer that are kept open.
const OPEN_FILES: std::num::NonZeroUsize = std::num::NonZeroUsize::new(16).expect("not zero");

pub(super) struct Files {
    directory: PathBuf,
    packed: RwLock<Arc<File>>,
    large: LargeFiles,
    open: Mutex<LruCache<usize, Arc<File>>>,
}

/// Where a stretch of the tar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Packed,
    /// In the large file of this number.
    Large(usize),
}

impl Files {
    pub(super) fn open(directory: &Path, large: LargeFiles) -> io::Result<Self> {
        let packed = RwLock::new(Arc::new(writable().open(directory.join(PACKED))?));
        let open = Mutex::new(LruCache::new(OPEN_FILES));
        Ok(Self { directory: directory.to_owned(), packed, large, open })
    }

    /// The same, to look only; `None` where there are none.
    pub(super) fn look(directory: &Path, large: LargeFiles) -> io::Result<Option<Self>> {
        let packed = match File::open(directory.join(PACKED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => RwLock::new(Arc::new(opened?)),
        };
        let open = Mutex::new(LruCache::new(OPEN_FILES));
        Ok(Some(Self { directory: directory.to_owned(), packed, large, open }))
    }

    /// The bytes of a range of the tar.
    pub(super) fn read(&self, range: &Range<u64>, from: ReadFrom) -> io::Result<Vec<u8>> {
        let read = |place, piece: &Range<u64>| match from {
            ReadFrom::Cache => self.read_piece(place, piece),
            ReadFrom::Disk => self.read_from_disk(place, piece),
        };
        let mut pieces = self.pieces(range);
        let Some((place, piece)) = pieces.next() else { return Ok(Vec::new()) };
        if from == ReadFrom::Cache && piece.end < range.end {
            self.begin(&(piece.end..range.end));
        }
        let mut bytes = read(place, &piece)?;
        for (place, piece) in pieces {
            bytes.append(&mut read(place, &piece)?);
        }
        Ok(bytes)
    }

    /// Has the disk begin to read a range of the tar.
    fn begin(&self, range: &Range<u64>) {
        for (place, piece) in self.pieces(range) {
            let len = piece.end - piece.start;
            match place {
                Place::Packed => soon::begin(&self.packed(), piece.start, len),
                Place::Large(number) => {
                    if let Ok(file) = self.large(number, false) {
                        soon::begin(&file, piece.start - self.large.ranges()[number].start, len);
                    }
                }
            }
        }
    }

    /// Writes bytes to where they belong.
    pub(super) fn write(&self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        for (place, piece) in self.pieces(&(offset..offset + bytes.len() as u64)) {
            let (now, rest) = bytes.split_at(usize_of(&piece)?);
            match place {
                Place::Packed => self.packed().write_all_at(now, piece.start)?,
                Place::Large(number) => {
                    let file = self.large(number, true)?;
                    file.write_all_at(now, piece.start - self.large.ranges()[number].start)?;
                }
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Gives a range's room back. What was there reads as zeros.
    pub(super) fn punch(&self, range: &Range<u64>) -> io::Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for (place, piece) in self.pieces(range) {
            let len = piece.end - piece.start;
            match place {
                Place::Packed => rustix::fs::fallocate(&*self.packed(), how, piece.start, len)?,
                Place::Large(number) => match self.large(number, false) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    file => {
                        let start = self.large.ranges()[number].start;
                        rustix::fs::fallocate(&*file?, how, piece.start - start, len)?;
                    }
                },
            }
        }
        Ok(())
    }

    /// Removes a large file. Whoever has it open, or mapped, or as what the kernel reads, keeps it as it is.
    pub(super) fn remove(&self, large: &Range<u64>) -> io::Result<()> {
        let Ok(number) = self.large.ranges().binary_search_by_key(&large.start, |range| range.start) else {
            return Ok(());
        };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).pop(&number);
        disk::remove(&self.path(number))
    }

    /// Puts an empty file in the packed one's place. Whoever has that open, or mapped, or mounted, keeps it as it is.
    pub(super) fn renew_packed(&self) -> io::Result<()> {
        let path = self.directory.join(PACKED);
        let new = path.with_extension("new");
        let file = writable().truncate(true).open(&new)?;
        std::fs::rename(&new, &path)?;
        disk::note(disk::Event::Changed, &path);
        *self.packed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(file);
        Ok(())
    }

    /// Opens the packed file, to be read; at least so long.
    pub(super) fn extend_packed(&self, len: u64) -> io::Result<File> {
        extend(&self.packed(), len)?;
        File::open(self.directory.join(PACKED))
    }

    /// Opens the large file that holds exactly this range, to be read; at least so long.
    pub(super) fn extend_large(&self, content: &Range<u64>, len: u64) -> io::Result<Option<File>> {
        let Some(file) = self.open_large(content)? else { return Ok(None) };
        if file.metadata()?.len() < len
            && let Ok(number) = self.large.ranges().binary_search_by_key(&content.start, |range| range.start)
        {
            extend(&*self.large(number, false)?, len)?;
        }
        Ok(Some(file))
    }

    /// Opens the large file that holds exactly this range, to be read.
    pub(super) fn open_large(&self, content: &Range<u64>) -> io::Result<Option<File>> {
        let ranges = self.large.ranges();
        let number = ranges.binary_search_by_key(&content.start, |range| range.start).ok();
        let number = number.filter(|&number| ranges[number] == *content);
        match number.map(|number| File::open(self.path(number))) {
            // No span covers it: there is nothing to be read.
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.transpose(),
        }
    }

    /// Makes all that was written last, and the names of the files that hold it.
    pub(super) fn sync(&self) -> io::Result<()> {
        disk::sync_file(&self.packed(), &self.directory.join(PACKED))?;
        let mut any = false;
        for number in 0..self.large.ranges().len() {
            match self.large(number, false) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => disk::sync_file(&*file?, &self.path(number))?,
            }
            any = true;
        }
        if any {
            disk::sync_dir(&self.directory.join(LARGE))?;
        }
        disk::sync_dir(&self.directory)
    }

    fn read_piece(&self, place: Place, piece: &Range<u64>) -> io::Result<Vec<u8>> {
        let len = usize_of(piece)?;
        match place {
            Place::Packed => read_exact(&self.packed(), len, piece.start),
            Place::Large(number) => {
                let file = self.large(number, false)?;
                read_exact(&file, len, piece.start - self.large.ranges()[number].start)
            }
        }
    }

    fn read_from_disk(&self, place: Place, piece: &Range<u64>) -> io::Result<Vec<u8>> {
        let len = usize_of(piece)?;
        match place {
            Place::Packed => direct::read(&self.directory.join(PACKED), piece.start, len),
            Place::Large(number) => {
                direct::read(&self.path(number), piece.start - self.large.ranges()[number].start, len)
            }
        }
    }

    /// A range of the tar, cut where another file begins.
    pub(super) fn pieces(&self, range: &Range<u64>) -> impl Iterator<Item = (Place, Range<u64>)> {
        let (large, end) = (self.large.ranges(), range.end);
        let (mut at, mut next) = (range.start, large.partition_point(|large| large.end <= range.start));
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (place, stop) = match large.get(next) {
                Some(own) if own.start <= at => (Place::Large(next), own.end),
                Some(ahead) => (Place::Packed, ahead.start),
                None => (Place::Packed, end),
            };
            next += usize::from(place != Place::Packed);
            let piece = at..stop.min(end);
            at = piece.end;
            Some((place, piece))
        })
    }

    fn packed(&self) -> Arc<File> {
        self.packed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn large(&self, number: usize, create: bool) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(file.clone());
        }
        let path = self.path(number);
        let opened = File::options().read(true).write(true).open(&path);
        let file = match opened {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(self.directory.join(LARGE))?;
                writable().open(&path)?
            }
            opened => opened?,
        };
        let file = Arc::new(file);
        open.put(number, file.clone());
        Ok(file)
    }

    fn path(&self, number: usize) -> PathBuf {
        self.directory.join(LARGE).join(self.large.ranges()[number].start.to_string())
    }
}

fn writable() -> std::fs::OpenOptions {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    options
}

fn extend(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() < len { file.set_len(len) } else { Ok(()) }
}

fn usize_of(range: &Range<u64>) -> io::Result<usize> {
    usize::try_from(range.end - range.start).map_err(io::Error::other)
}

/// Reads without zeroing the buffer first.
fn read_exact(file: &File, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        // The allocator may have given more room than was asked for.
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}
