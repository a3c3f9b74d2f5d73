//! What a boot pack brings, on its way into the kernel's page cache before anybody asks for it.
//!
//! A read of what is here costs a program two changes of process and a copy on its way; what is in the page cache costs none of
//! them. So while a container is still being made, the files that starts touch are looked up below the mount, which has the
//! kernel know their names, and their pages are stored (FUSE_NOTIFY_STORE) as the pack's frames land.
//!
//! Both are done by another process ([`super::store_pages`]), which is told of them here. A process that waits for an answer on its
//! own mount, or for a page that a reader of it waits for, cannot be killed before somebody gives that answer: its successor,
//! who comes when it is dead.
//!
//! Invariants: nobody waits for it; what is stored is what a read would give, page by page, and no more than a part of the memory
//! that is free to be used; after [`Push::stop`] nothing more is stored, and nothing below the mount is held open.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jaunt_formats::error_chain;
use tokio::task::JoinHandle;
use zerocopy::IntoBytes as _;

use super::abi::PageRecord;
use super::numbers::Told;
use crate::fs::{HotFile, LayerFs};

/// Bytes that are stored at a time.
pub(super) const PIECE: u32 = 1 << 20;
/// Bytes that a mount is given at most, whatever there is of memory: more than starts touch.
const MOST: u64 = 512 << 20;
/// The part of the memory which is available that a mount may take.
const SHARE: u64 = 8;
/// How often it is looked whether what was sent has been stored.
const EVERY: Duration = Duration::from_millis(5);

/// What stores pages, as bytes for [`super::store_pages`]. Dropped, it stores nothing more, and holds nothing below the mount.
pub trait PageSink: Write + Send {
    /// Nothing more comes.
    fn close(&mut self);
    /// Whether it is done with what came.
    fn has_ended(&mut self) -> bool;
    /// What has it take nothing more, whoever is sending to it at that moment.
    fn breaker(&self) -> Breaker;
}

/// See [`PageSink::breaker`].
pub type Breaker = Box<dyn Fn() + Send + Sync>;

/// Empty once it is over.
type Slot = Arc<Mutex<Option<Box<dyn PageSink>>>>;

/// Pages on their way to the kernel. Ends when it is dropped.
pub(super) struct Push {
    task: JoinHandle<()>,
    sink: Slot,
    stop: Breaker,
}

/// Where they come from, and go.
struct Target {
    fs: Arc<LayerFs>,
    numbers: Told,
    sink: Slot,
}

impl Push {
    /// Begins, on the runtime that this is called on.
    pub(super) fn begin(fs: Arc<LayerFs>, sink: Box<dyn PageSink>) -> Self {
        let stop = sink.breaker();
        let sink = Arc::new(Mutex::new(Some(sink)));
        let target = Target { numbers: Told::new(&fs), fs, sink: sink.clone() };
        Self { task: tokio::spawn(async move { push(&Arc::new(target)).await }), sink, stop }
    }

    /// Ends it: nothing more is stored once this returns.
    pub(super) fn stop(&self) {
        self.task.abort();
        (self.stop)();
        lock(&self.sink).take();
    }

    /// Whether nothing is stored any more.
    pub(super) fn is_over(&self) -> bool {
        lock(&self.sink).is_none()
    }
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").field("task", &self.task).finish_non_exhaustive()
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn push(target: &Arc<Target>) {
    let _step = target.fs.trace().step("push", || target.fs.name().to_owned());
    let Some(bytes) = send(target).await else {
        lock(&target.sink).take();
        return;
    };
    if let Some(sink) = &mut *lock(&target.sink) {
        sink.close();
    }
    while !target.is_over() {
        tokio::time::sleep(EVERY).await;
    }
    tracing::info!(image = target.fs.name(), bytes, "what its boot pack brought is in the page cache");
}

/// Sends everything: so many bytes; `None` if that cannot be done.
async fn send(target: &Arc<Target>) -> Option<u64> {
    let boot = target.fs.boot().cloned()?;
    let extents = boot.extents().await?;
    let fs = target.fs.clone();
    let listed = tokio::task::spawn_blocking(move || fs.hot_files(&extents, page_size()));
    let mut files = listed.await.ok()?;
    limit(&mut files, available_memory() / SHARE);
    let mut bytes = 0;
    for files in files.chunk_by(|one, next| one.frame == next.frame).map(<[HotFile]>::to_vec) {
        if !boot.landed(files[0].frame).await {
            return None;
        }
        let target = target.clone();
        let sent = tokio::task::spawn_blocking(move || files.iter().map(|file| target.send(file)).sum());
        let sent: io::Result<u64> = sent.await.ok()?;
        bytes += sent.inspect_err(lost).ok()?;
    }
    Some(bytes)
}

fn lost(error: &io::Error) {
    tracing::debug!(why = error_chain(error), "the kernel is given no more of a boot pack");
}

impl Target {
    /// Sends the pages of a file.
    fn send(&self, file: &HotFile) -> io::Result<u64> {
        let mut sent = 0;
        let mut slot = lock(&self.sink);
        let sink = slot.as_mut().ok_or(io::ErrorKind::Interrupted)?;
        let mut path = file.path.as_str();
        for pages in &file.pages {
            let mut at = pages.start;
            while at < pages.end {
                let len = u32::try_from(pages.end - at).unwrap_or(PIECE).min(PIECE);
                // What became unbelievable meanwhile, or was taken away, is read when it is asked for.
                let Some(bytes) = self.fs.peek(file.ino, at, len).filter(|bytes| !bytes.is_empty()) else {
                    return Ok(sent);
                };
                let number = self.numbers.number(file.ino).0;
                sink.write_all(PageRecord::new(path, number, at, &bytes)?.as_bytes())?;
                sink.write_all(std::mem::take(&mut path).as_bytes())?;
                sink.write_all(&bytes)?;
                self.fs.note_pushed(bytes.len());
                (at, sent) = (at + bytes.len() as u64, sent + bytes.len() as u64);
            }
        }
        Ok(sent)
    }

    /// Whether all that was sent has been stored; from then on there is no sink any more.
    fn is_over(&self) -> bool {
        let mut slot = lock(&self.sink);
        if slot.as_mut().is_some_and(|sink| sink.has_ended()) {
            slot.take();
        }
        slot.is_none()
    }
}

fn lock(slot: &Slot) -> MutexGuard<'_, Option<Box<dyn PageSink>>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
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
