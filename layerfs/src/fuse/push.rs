//! What a boot pack brings, put into the kernel's page cache before anybody asks for it.
//!
//! A read of what is here costs a program two changes of process and a copy on its way; what is in the page cache costs none of
//! them. So while a container is still being made, the files that starts touch are looked up below the mount, which has the
//! kernel know their names, and their pages are stored (FUSE_NOTIFY_STORE) as the pack's frames land.
//!
//! Invariants: nobody waits for it; what is stored is what a read would give, page by page, and no more than a part of the memory
//! that is free to be used; after [`Push::stop`] nothing more
//! is stored, and nothing below the mount is held open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::Notifier;
use jaunt_formats::error_chain;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::task::JoinHandle;

use super::numbers::Told;
use crate::fs::{HotFile, LayerFs};

/// Bytes that are stored at a time.
const PIECE: u32 = 1 << 20;

/// Bytes that a mount is given at most, whatever there is of memory: more than starts touch.
const MOST: u64 = 512 << 20;
/// The part of the memory which is available that a mount may take.
const SHARE: u64 = 8;

/// Pages on their way to the kernel. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Push {
    task: JoinHandle<()>,
    ended: Arc<Mutex<bool>>,
}

/// Where they go.
struct Target {
    fs: Arc<LayerFs>,
    numbers: Told,
    notifier: Notifier,
    /// The chain's root directory.
    root: PathBuf,
    /// Held while something below the root is open.
    ended: Arc<Mutex<bool>>,
}

impl Push {
    /// Begins, on the runtime that this is called on.
    pub(super) fn begin(fs: Arc<LayerFs>, notifier: Notifier, root: PathBuf) -> Self {
        let ended = Arc::default();
        let target = Target { numbers: Told::new(&fs), fs, notifier, root, ended: Arc::clone(&ended) };
        Self { task: tokio::spawn(push(target)), ended }
    }

    /// Ends it: nothing more is stored once this returns.
    pub(super) fn stop(&self) {
        self.task.abort();
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn push(target: Target) {
    let Some(boot) = target.fs.boot().cloned() else { return };
    let Some(extents) = boot.extents().await else { return };
    let target = Arc::new(target);
    let fs = target.fs.clone();
    let listed = tokio::task::spawn_blocking(move || fs.hot_files(&extents, page_size()));
    let Ok(mut files) = listed.await else { return };
    limit(&mut files, available_memory() / SHARE);
    for files in files.chunk_by(|one, next| one.frame == next.frame).map(<[HotFile]>::to_vec) {
        if !boot.landed(files[0].frame).await {
            return;
        }
        let target = target.clone();
        let stored = tokio::task::spawn_blocking(move || {
            files.iter().try_for_each(|file| {
                target.store(file).inspect_err(|error| {
                    let (image, why) = (target.fs.name(), error_chain(error));
                    tracing::debug!(
                        image,
                        path = file.path,
                        why,
                        "the kernel is given no more of a boot pack"
                    );
                })
            })
        });
        if !matches!(stored.await, Ok(Ok(()))) {
            return;
        }
    }
}

impl Target {
    /// Stores the pages of a file.
    fn store(&self, file: &HotFile) -> io::Result<()> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // For as long as it is open, the kernel has an inode that pages can be stored in.
        let _open = open_below(&self.root, &file.path)?;
        for pages in &file.pages {
            let mut at = pages.start;
            while at < pages.end {
                let len = u32::try_from(pages.end - at).unwrap_or(PIECE).min(PIECE);
                // What became unbelievable meanwhile, or was taken away, is read when it is asked for.
                let Some(bytes) = self.fs.peek(file.ino, at, len).filter(|bytes| !bytes.is_empty()) else {
                    return Ok(());
                };
                self.notifier.store(self.numbers.number(file.ino), at, &bytes)?;
                self.fs.note_pushed(bytes.len());
                at += bytes.len() as u64;
            }
        }
        Ok(())
    }
}

/// Has the kernel look up every name on the way, and nothing else.
fn open_below(root: &Path, path: &str) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), within)?)
}

/// The first of some files that are no more than so many bytes together.
fn limit(files: &mut Vec<HotFile>, room: u64) {
    let mut left = room.min(MOST);
    let fit = files.iter().take_while(|file| {
        let bytes: u64 = file.pages.iter().map(|pages| pages.end - pages.start).sum();
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    });
    files.truncate(fit.count());
}

/// What the kernel could give without taking it from programs; all there is where it does not say.
fn available_memory() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse_available(&told).unwrap_or(u64::MAX)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Ino;

    #[test]
    fn what_does_not_fit_is_left_out_with_what_follows() {
        let file = |bytes| HotFile {
            ino: Ino(9),
            path: String::new(),
            pages: std::iter::once(0..bytes).collect(),
            frame: 0,
        };
        for (room, fit) in [(0, 0), (99, 0), (100, 1), (450, 1), (500, 2), (u64::MAX, 3)] {
            let mut files = vec![file(100), file(400), file(50)];
            limit(&mut files, room);
            assert_eq!(files.len(), fit, "{room}");
        }
        let mut files = vec![file(MOST), file(1)];
        limit(&mut files, u64::MAX);
        assert_eq!(files.len(), 1);
    }

    #[test]
    fn the_kernel_tells_what_is_available() {
        let told = "MemTotal:       24588776 kB\nMemFree:        10000000 kB\nMemAvailable:   23004512 kB\n";
        assert_eq!(parse_available(told), Some(23_004_512 * 1024));
        for told in ["", "MemAvailable:", "MemAvailable: many kB", "MemAvailable: 99999999999999999999 kB"] {
            assert_eq!(parse_available(told), None, "{told:?}");
        }
        assert!(available_memory() > 0);
    }
}
