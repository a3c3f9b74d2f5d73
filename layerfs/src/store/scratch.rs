//! Room for a while: a file without a name, which the system frees with its last descriptor, or when the machine stops.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Store, StoreError};

/// What a scratch file is called for a moment, where the file system knows none without a name.
const NAME: &str = ".scratch";

impl Store {
    /// A file for `len` bytes that are not believed yet, with room set aside for all of them.
    ///
    /// # Errors
    /// The disk has no room for it, or cannot be written to.
    pub fn scratch_file(&self, len: u64) -> Result<File, StoreError> {
        let made = self.nameless().and_then(|file| reserve(&file, len).map(|()| file));
        if let Err(error) = &made {
            self.shared.note_refused(error);
        }
        made.map_err(|source| StoreError {
            path: self.root.clone(),
            what: "set room aside for a layer's tar",
            source,
        })
    }

    fn nameless(&self) -> io::Result<File> {
        let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        match rustix::fs::open(&self.root, flags | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(file.into()),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                // One at a time, so that the name is free; what a crash left under it goes as well.
                let _one = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let path = self.root.join(NAME);
                let _ = std::fs::remove_file(&path);
                let file = File::options().read(true).write(true).create_new(true).open(&path)?;
                std::fs::remove_file(&path)?;
                Ok(file)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A disk that is too small says so now, and not when gigabytes have come.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        // Where room cannot be set aside, writing tells.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_no_name_and_refuses_what_the_disk_cannot_hold() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let file = store.scratch_file(1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let refused = store.scratch_file(1 << 60).unwrap_err();
        assert!(refused.to_string().contains("set room aside"), "{refused}");
    }
}
