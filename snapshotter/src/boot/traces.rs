//! Traces of starts: noted while a newly mounted chain is read for the first time, written when it comes to rest.
//!
//! ```text
//! <root>/traces/<milliseconds since 1970>-<start of the index's digest>.jsonl    one start (formats::boot::Trace)
//! ```
//!
//! They are for whoever makes boot packs of them, and sent there where that is allowed (`sender`); nothing on this node reads them again.
//! The oldest go when there are more than are kept.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, UNIX_EPOCH};

use jaunt_formats::Digest;
use jaunt_formats::boot::{Touch, Trace, TraceHead};
use jaunt_layerfs::boot::{FirstTouches, Start, TouchLimits};
use jaunt_layerfs::fs::{Ino, LayerFs};
use jaunt_layerfs::fuse::Narrowed;
use tokio::time::MissedTickBehavior;

use super::reads::{limits, narrow};
use super::sender::Sender;
use super::worth::Worth;
use crate::config::BootConfig;

/// How often it is looked whether a start is over.
const EVERY: Duration = Duration::from_secs(1);
/// As many traces of an index as a pack is well made of.
const FEW: usize = 3;

/// Notes starts, and keeps their traces.
pub struct Traces {
    directory: PathBuf,
    limits: TouchLimits,
    keep: usize,
    recorded: Mutex<Vec<Recorded>>,
    sender: OnceLock<Sender>,
    worth: Arc<Worth>,
}

struct Recorded {
    fs: Weak<LayerFs>,
    index: Digest,
    /// As long as it is noted.
    _read_ahead: Option<Narrowed>,
}

impl Traces {
    /// Traces kept below `root`; `None` where none are.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(root: &Path, config: &BootConfig, worth: Arc<Worth>) -> io::Result<Option<Arc<Self>>> {
        if config.keep_traces == 0 {
            return Ok(None);
        }
        let directory = directory(root);
        std::fs::create_dir_all(&directory)?;
        // What a process before wrote only half.
        with_extension(&directory, "new")?.iter().try_for_each(std::fs::remove_file)?;
        let keep = usize::try_from(config.keep_traces).unwrap_or(usize::MAX);
        Ok(Some(Arc::new(Self {
            directory,
            limits: limits(config),
            keep,
            recorded: Mutex::default(),
            sender: OnceLock::new(),
            worth,
        })))
    }

    /// Has those that came to rest sent from now on.
    pub fn send_with(&self, sender: Sender) {
        let _ = self.sender.set(sender);
    }

    /// Whether few starts of an index have been traced here, of those that are kept.
    pub fn are_few(&self, index: &Digest) -> bool {
        let end = of_index(index);
        let is_of = |path: &&PathBuf| path.to_string_lossy().ends_with(&end);
        list(&self.directory).is_ok_and(|traces| traces.iter().filter(is_of).count() < FEW)
    }

    /// Notes the start of a chain that is mounted for the first time. What is mounted at `narrowed` is read ahead of little meanwhile.
    pub fn record(&self, fs: &Arc<LayerFs>, index: Digest, narrowed: Option<&Path>) {
        if fs.note_first_touches(Arc::new(FirstTouches::new(self.limits))) {
            let _read_ahead = narrowed.and_then(narrow);
            let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
            recorded.push(Recorded { fs: Arc::downgrade(fs), index, _read_ahead });
        }
    }

    /// Writes traces as starts come to rest, until the runtime ends.
    pub async fn write(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let this = self.clone();
            // A panic there has been reported by its own thread.
            let _ = tokio::task::spawn_blocking(move || this.write_those_over()).await;
        }
    }

    fn write_those_over(&self) {
        for (fs, index, start) in self.over() {
            let (trace, boot) = (trace(&fs, index, start), fs.boot().map(|boot| boot.figures()));
            let (touches, ready_ms, settled) = (trace.touches.len(), trace.head.ready_ms, trace.head.settled);
            if let Some(figures) = boot.filter(|_| settled) {
                self.worth.note(&index, figures);
            }
            let (of_pack, used) = boot.map_or((0, 0), |boot| (boot.content_bytes, boot.used_bytes));
            let image = &trace.head.image;
            tracing::info!(image, touches, ready_ms, settled, of_pack, used, "a start was traced");
            let text = trace.to_text();
            if let Err(error) = self.keep(&trace.head, &text) {
                tracing::warn!(%error, image, "a trace cannot be kept");
            }
            if let Some(sender) = self.sender.get().filter(|_| settled && touches > 0) {
                sender.send(index, text);
            }
        }
    }

    fn over(&self) -> Vec<(Arc<LayerFs>, Digest, Start)> {
        let (mut recorded, mut over) =
            (self.recorded.lock().unwrap_or_else(PoisonError::into_inner), Vec::new());
        recorded.retain(|Recorded { fs, index, .. }| {
            let Some(fs) = fs.upgrade() else { return false };
            let start = fs.first_touches().and_then(|touches| touches.take_over());
            let goes_on = start.is_none();
            over.extend(start.map(|start| (fs, *index, start)));
            goes_on
        });
        over
    }

    fn keep(&self, head: &TraceHead, text: &str) -> io::Result<()> {
        let name = format!("{:013}{}", head.started_ms, of_index(&head.index));
        let path = self.directory.join(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &path)?;
        let mut kept = list(&self.directory)?;
        kept.truncate(kept.len().saturating_sub(self.keep));
        kept.iter().try_for_each(std::fs::remove_file)
    }
}

/// How names of traces of an index end.
fn of_index(index: &Digest) -> String {
    format!("-{}.jsonl", &index.hex()[..12])
}

/// Where traces are, of a daemon with this state directory.
pub fn directory(root: &Path) -> PathBuf {
    root.join("traces")
}

/// The traces in a directory, the oldest first.
///
/// # Errors
/// It cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut traces = with_extension(directory, "jsonl")?;
    traces.sort();
    Ok(traces)
}

fn with_extension(directory: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let paths = entries.into_iter().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|is| is == extension)).collect())
}

/// By path, which means something in the image's next version as well. What has no name that is text is left out.
fn trace(fs: &LayerFs, index: Digest, start: Start) -> Trace {
    let wanted: HashSet<Ino> = start.touches.iter().map(|noted| Ino(noted.inode)).collect();
    let paths = fs.paths_of(&wanted);
    // The repository; what follows it in messages is the chain.
    let image = fs.name().split(' ').next().unwrap_or_default().to_owned();
    let touches: Vec<Touch> = start
        .touches
        .iter()
        .filter_map(|noted| {
            let path = paths.get(&Ino(noted.inode))?.clone();
            let (offset, len) = (noted.range.start, noted.range.end - noted.range.start);
            Some(Touch { path, offset, len, ms: millis(noted.after) })
        })
        .collect();
    let head = TraceHead {
        started_ms: millis(start.at.duration_since(UNIX_EPOCH).unwrap_or_default()),
        ready_ms: touches.last().map_or(0, |last| last.ms),
        settled: start.settled,
        ..TraceHead::new(image, index, fs.prefix())
    };
    Trace { head, touches }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
