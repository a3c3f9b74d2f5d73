//! The files of a layout: blobs under their digest, and how any file is written.
//!
//! ```text
//! DIR/oci-layout, DIR/index.json, DIR/blobs/sha256/<hex>     as the image spec says
//! DIR/.jaunt-lock                                            held while index.json is replaced
//! DIR/.jaunt-writers                                         held, shared, by every writer as long as it works
//! DIR/.jaunt-upload-<pid>-<n>                                a blob on its way, locked by its writer
//! DIR/.jaunt-index                                           the next index.json
//! ```
//!
//! A path is made of a digest's digits or a constant, never of a name that came from elsewhere. A file
//! gets its name when it is complete and on disk. What a killed writer left, the next one removes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use jaunt_formats::Digest;

use super::error::{LayoutError, io};
use super::incoming::Incoming;

/// What an index.json is written as before it is one.
const NEXT_INDEX: &str = ".jaunt-index";
const LOCK: &str = ".jaunt-lock";
const WRITERS: &str = ".jaunt-writers";
/// What a directory may have in it that is to become a layout: what a killed writer left.
const OURS: &str = ".jaunt-";
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// A marker has some thirty bytes.
const MARKER_LIMIT: u64 = 64 << 10;

/// A layout's directory.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    /// Held by every writer until it is dropped.
    writing: Mutex<Option<File>>,
}

impl Files {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, writing: Mutex::new(None) }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn index_path(&self) -> PathBuf {
        self.directory.join("index.json")
    }

    fn blobs(&self) -> PathBuf {
        self.directory.join("blobs").join("sha256")
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Whether the directory is a layout that this program can read; `false` when it is none at all.
    pub fn is_layout(&self) -> Result<bool, LayoutError> {
        let path = self.directory.join("oci-layout");
        let Some(bytes) = read_if_exists(&path, MARKER_LIMIT)? else { return Ok(false) };
        let marker: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| LayoutError::malformed(&path, error.to_string()))?;
        match marker["imageLayoutVersion"].as_str() {
            Some(version) if version.starts_with("1.") => Ok(true),
            _ => Err(LayoutError::malformed(path, "it states no image layout version 1")),
        }
    }

    /// Makes the directory a layout if it is none yet. One that has other things in it is refused.
    pub fn make_layout(&self) -> Result<(), LayoutError> {
        if self.is_layout()? {
            self.join_writers();
            return fs::create_dir_all(self.blobs()).map_err(io("create", self.blobs()));
        }
        fs::create_dir_all(&self.directory).map_err(io("create", &self.directory))?;
        for entry in entries(&self.directory)? {
            let name = entry.file_name();
            if !name.as_encoded_bytes().starts_with(OURS.as_bytes()) && name != "blobs" {
                // Another writer may have made it one since it was looked at.
                if self.is_layout()? {
                    break;
                }
                let reason = "it is no OCI layout, and not empty";
                return Err(LayoutError::malformed(&self.directory, reason));
            }
        }
        fs::create_dir_all(self.blobs()).map_err(io("create", self.blobs()))?;
        self.join_writers();
        let mut marker = Incoming::create(&self.directory)?;
        marker.write(MARKER.as_bytes())?;
        marker.rename(&self.directory.join("oci-layout"))
    }

    /// Opens a blob; `None` when it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>, LayoutError> {
        open_if_exists(&self.blob_path(digest))
    }

    /// A blob's length. Who asks may rely on it: no process removes the blob before this one has ended.
    pub fn blob_len(&self, digest: &Digest) -> Result<Option<u64>, LayoutError> {
        if self.is_layout()? {
            self.join_writers();
        }
        self.len_of(digest)
    }

    /// The same, for one who relies on nothing.
    pub fn len_of(&self, digest: &Digest) -> Result<Option<u64>, LayoutError> {
        let path = self.blob_path(digest);
        let Some(file) = open_if_exists(&path)? else { return Ok(None) };
        Ok(Some(file.metadata().map_err(io("read", path))?.len()))
    }

    /// A whole blob of at most `limit` bytes, verified; `None` when it is not there.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>, LayoutError> {
        let path = self.blob_path(digest);
        let Some(bytes) = read_if_exists(&path, limit)? else { return Ok(None) };
        let (expected, actual) = (*digest, Digest::of(&bytes));
        if actual != expected {
            return Err(LayoutError::DigestMismatch { path, expected, actual });
        }
        Ok(Some(bytes.into()))
    }

    /// Exactly the bytes of a range, unverified.
    pub fn read_range(&self, digest: &Digest, range: Range<u64>) -> Result<Option<Bytes>, LayoutError> {
        let path = self.blob_path(digest);
        let Some(file) = open_if_exists(&path)? else { return Ok(None) };
        let (start, end) = (range.start, range.end);
        if file.metadata().map_err(io("read", &path))?.len() < end {
            return Err(LayoutError::Outside { path, start, end });
        }
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, start).map_err(io("read", path))?;
        Ok(Some(bytes.into()))
    }

    /// Stores a blob held in memory.
    pub fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), LayoutError> {
        let mut incoming = Incoming::create(&self.directory)?;
        incoming.write(bytes)?;
        self.finish(incoming, digest, bytes.len() as u64)
    }

    /// Begins a blob whose digest is known at its end.
    pub fn start_blob(&self) -> Result<Incoming, LayoutError> {
        Incoming::create(&self.directory)
    }

    /// Makes it the blob `digest`, if that is what was written.
    pub fn finish(&self, incoming: Incoming, digest: &Digest, len: u64) -> Result<(), LayoutError> {
        let path = self.blob_path(digest);
        let (actual, actual_len) = incoming.content();
        if actual_len != len {
            return Err(LayoutError::WrongLength { path, expected: len, actual: actual_len });
        }
        if actual != *digest {
            return Err(LayoutError::DigestMismatch { path, expected: *digest, actual });
        }
        incoming.rename(&path)
    }

    /// Says that this process is writing, until it ends. A layout that cannot be written to has no writers.
    fn join_writers(&self) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.is_none() {
            let file = open_lock(&self.directory.join(WRITERS)).ok();
            *writing = file.filter(|file| file.lock_shared().is_ok());
        }
    }

    /// Keeps writers out until the file is dropped; `None` if there are some.
    pub fn lock_out_writers(&self) -> Result<Option<File>, LayoutError> {
        let path = self.directory.join(WRITERS);
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(io("lock", path)(error)),
        }
    }

    /// Waits for the right to replace index.json, which ends when the file is dropped.
    pub fn lock(&self) -> Result<File, LayoutError> {
        let path = self.directory.join(LOCK);
        let file = open_lock(&path)?;
        file.lock().map_err(io("lock", path))?;
        Ok(file)
    }

    /// Replaces index.json, whose lock the caller holds. Every blob that was given its name before is on
    /// disk first.
    pub fn replace_index(&self, bytes: &[u8]) -> Result<(), LayoutError> {
        sync_directory(&self.blobs())?;
        let (next, index) = (self.directory.join(NEXT_INDEX), self.index_path());
        let mut file = File::create(&next).map_err(io("create", &next))?;
        if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
            // Half of it helps nobody, least of all on a full disk.
            let _ = fs::remove_file(&next);
            return Err(io("write", next)(error));
        }
        fs::rename(&next, &index).map_err(io("replace", index))?;
        sync_directory(&self.directory)
    }
}

/// Opens a regular file to read. Anything else, a named pipe say, could make a reader wait for ever.
fn open_if_exists(path: &Path) -> Result<Option<File>, LayoutError> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        file => file.map_err(io("open", path))?,
    };
    if !file.metadata().map_err(io("open", path))?.is_file() {
        return Err(LayoutError::malformed(path, "it is no regular file"));
    }
    Ok(Some(file))
}

/// Reads a file of at most `limit` bytes.
pub fn read_if_exists(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, LayoutError> {
    let Some(file) = open_if_exists(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(LayoutError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(Some(bytes))
}

fn sync_directory(path: &Path) -> Result<(), LayoutError> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        opened => opened.and_then(|directory| directory.sync_all()).map_err(io("sync", path)),
    }
}

fn open_lock(path: &Path) -> Result<File, LayoutError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(io("open", path))
}

fn entries(directory: &Path) -> Result<Vec<fs::DirEntry>, LayoutError> {
    fs::read_dir(directory).and_then(Iterator::collect).map_err(io("list", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &Files) -> Vec<String> {
        let mut names: Vec<_> = entries(&files.directory)
            .unwrap()
            .iter()
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_upload_leaves_a_blob_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().join("a/b"));
        files.make_layout().unwrap();
        let digest = Digest::of(b"blob");
        for (bytes, len) in [(&b"blub"[..], 4), (b"blob", 3), (b"blob", 5), (b"", 0)] {
            let mut incoming = files.start_blob().unwrap();
            incoming.write(bytes).unwrap();
            assert!(files.finish(incoming, &digest, len).is_err());
        }
        drop(files.start_blob().unwrap());
        assert_eq!(names(&files), [".jaunt-writers", "blobs", "oci-layout"]);
        assert_eq!(files.blob_len(&digest).unwrap(), None);
        files.write_blob(&digest, b"blob").unwrap();
        assert_eq!(files.read_blob(&digest, 4).unwrap().unwrap(), &b"blob"[..]);
        assert!(matches!(files.read_blob(&digest, 3), Err(LayoutError::TooLarge { limit: 3, .. })));
        assert_eq!(files.read_range(&digest, 1..3).unwrap().unwrap(), &b"lo"[..]);
        assert!(matches!(files.read_range(&digest, 1..5), Err(LayoutError::Outside { .. })));
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_what_is_written_stays() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        files.make_layout().unwrap();
        fs::write(directory.path().join(".jaunt-upload-1-1"), b"left over").unwrap();
        let mut living = files.start_blob().unwrap();
        living.write(b"x").unwrap();
        assert_eq!(names(&files).len(), 4, "blobs, oci-layout, the lock and the upload under way");
        drop(files.start_blob().unwrap());
        files.finish(living, &Digest::of(b"x"), 1).unwrap();
        assert_eq!(files.blob_len(&Digest::of(b"x")).unwrap(), Some(1));
    }

    #[test]
    fn a_blob_that_is_no_file_or_not_what_it_should_be_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        files.make_layout().unwrap();
        files.write_blob(&Digest::of(b"right"), b"right").unwrap();
        fs::write(files.blob_path(&Digest::of(b"right")), b"wrong").unwrap();
        let wrong = files.read_blob(&Digest::of(b"right"), 100);
        assert!(matches!(wrong, Err(LayoutError::DigestMismatch { .. })), "{wrong:?}");
        let pipe = files.blob_path(&Digest::of(b"pipe"));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            rustix::fs::makedev(0, 0),
        )
        .unwrap();
        assert!(files.read_blob(&Digest::of(b"pipe"), 100).unwrap_err().to_string().contains("no regular"));
    }

    #[test]
    fn a_directory_with_other_things_in_it_does_not_become_a_layout() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path().to_owned());
        fs::write(directory.path().join("precious"), b"x").unwrap();
        assert!(files.make_layout().unwrap_err().to_string().contains("not empty"));
        fs::remove_file(directory.path().join("precious")).unwrap();
        for marker in ["{", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
            fs::write(directory.path().join("oci-layout"), marker).unwrap();
            assert!(files.make_layout().is_err() && files.is_layout().is_err(), "{marker}");
        }
    }
}
