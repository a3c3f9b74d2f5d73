//! Boot packs on the node: what a start touches, brought in one stream and served before the layers have it.
//!
//! ```text
//! Boot::load:  table (digest by its descriptor) -> compared with the index -> frame by frame: verify, decode, shelf, wake
//! a read:      the layer's store, else the shelf, else wait for a frame that is nearly here, else the layer's spans
//! ```
//!
//! What a pack says of a layer's bytes is believed as the launch index is, by the mounts of that index alone. The store
//! takes only what was verified against spans' digests, which images share; a pack's bytes are verified against the pack,
//! which another image with the same layer never named. So they lie on a [shelf](shelf) of their own, beside the store, and
//! what makes the layer complete is fetched by its spans, pack or no pack.
//!
//! It is believed until the layers are complete: then what it brought is compared with them, and a pack that differs, or is of
//! something that is in quarantine, is [distrusted](Boot::distrust) as a whole.
//!
//! Nothing waits for a pack but readers of what it is about to bring, and those not for long ([`Progress`]). One that is late,
//! wrong or cut short costs what has come of it.

mod load;
mod progress;
mod shelf;
#[cfg(test)]
mod tests;
mod touches;
mod trust;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jaunt_formats::Digest;
use jaunt_formats::boot::{BootError, Extent, TablePlace};
use jaunt_formats::launch::LaunchLayer;
pub use load::Expected;
use tokio::time::{Instant, timeout};
pub use touches::{FirstTouches, Noted, Start, TouchLimits};

use crate::layer::Layer;
use crate::source::SourceError;
use crate::verify::FrameError;
use progress::Progress;
pub(crate) use shelf::NotLocal;
use shelf::Shelf;
use trust::Trust;

/// How long a reader waits for a pack from which nothing comes, and for one from which something does.
const STALL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(250);

/// A pack as its artifact names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedPack {
    /// The blob.
    pub digest: Digest,
    /// Its length.
    pub len: u64,
    /// Its table.
    pub table: TablePlace,
    /// Whether it was made of starts, and not of what the image's command was found to need.
    pub learnt: bool,
}

/// Why a pack is not, or not wholly, used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is no sound pack of this image.
    #[error(transparent)]
    Pack(#[from] BootError),
    /// It is longer or shorter than what names it says.
    #[error("boot pack {digest} is {declared} bytes long, and its table says {actual}")]
    Length {
        /// The blob.
        digest: Digest,
        /// What the artifact says.
        declared: u64,
        /// What the table says.
        actual: u64,
    },
    /// The registry does not give it.
    #[error("boot pack")]
    Source(#[from] SourceError),
    /// The registry wants to be left alone for a while.
    #[error("the registry rests")]
    Resting,
    /// It ends early.
    #[error("boot pack {digest} ends after {received} of {len} bytes")]
    Short {
        /// The blob.
        digest: Digest,
        /// Bytes that came.
        received: u64,
        /// Bytes that should have.
        len: u64,
    },
    /// A frame is not what the table says.
    #[error("frame {at} of boot pack {digest}: {source}")]
    Frame {
        /// The blob.
        digest: Digest,
        /// The frame's number.
        at: usize,
        /// What is wrong with it.
        source: FrameError,
    },
    /// There is no room for it, or the disk fails.
    #[error("a boot pack's content cannot be kept")]
    Keep(#[source] io::Error),
    /// The process is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What became of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// All of it is there.
    Whole,
    /// Most of what it holds was local already.
    NotNeeded,
}

/// One image's pack, as the mounts of its launch index see it.
#[derive(Default)]
pub struct Boot {
    shelf: OnceLock<Arc<Shelf>>,
    progress: Arc<Progress>,
    trust: Trust,
    learnt: bool,
}

/// How much of a pack there is, and was of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootFigures {
    /// Bytes of content that the pack has.
    pub content_bytes: u64,
    /// Bytes of it that are there.
    pub present_bytes: u64,
    /// Bytes of it, in whole units, that readers were given.
    pub used_bytes: u64,
}

impl Boot {
    /// The pack of that name, of which nothing is here.
    pub fn of(named: &NamedPack) -> Self {
        Self { learnt: named.learnt, ..Self::default() }
    }

    /// A pack that was loaded before, as far as it came, from `path`; `None` where there is none of this index, or it was
    /// damaged.
    pub fn open(path: &Path, index: Digest, layers: &[LaunchLayer]) -> Option<Self> {
        let shelf = Shelf::open(path, index, layers)
            .inspect_err(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "what a boot pack brought is of no use any more");
                    let _ = std::fs::remove_file(path);
                }
            })
            .ok()?;
        let boot = Self { learnt: shelf.is_of_learnt(), ..Self::default() };
        boot.progress.end();
        let _ = boot.shelf.set(Arc::new(shelf));
        Some(boot)
    }

    /// The bytes of a range of a layer's tar, if the shelf has what the layer does not.
    pub(crate) fn read(&self, number: u16, layer: &Layer, range: &Range<u64>) -> Option<Vec<u8>> {
        self.believed()?.read(number, range, |rest| layer.read_local(rest))
    }

    /// The same, for nobody yet: it does not count as used.
    pub(crate) fn peek(&self, number: u16, layer: &Layer, range: &Range<u64>) -> Option<Vec<u8>> {
        self.believed()?.peek(number, range, |rest| layer.read_local(rest))
    }

    /// Waits until it is known what the pack has: frames' numbers, and what they hold. `None` if it never is.
    pub(crate) async fn extents(&self) -> Option<Vec<(usize, Extent)>> {
        let known = self.until(|shelf| shelf.is_some()).await;
        let shelf = self.believed().filter(|_| known)?;
        Some(shelf.extents().map(|(frame, extent)| (frame, *extent)).collect())
    }

    /// Waits for a frame and all before it, which land in any order; whether they are here.
    pub(crate) async fn landed(&self, frame: usize) -> bool {
        self.until(|shelf| shelf.is_some_and(|shelf| (0..=frame).all(|frame| shelf.has_frame(frame)))).await
    }

    /// Waits until something holds of the shelf; whether it does: not of a pack that has ended before.
    async fn until(&self, holds: impl Fn(Option<&Shelf>) -> bool) -> bool {
        loop {
            let changed = self.progress.changed();
            let is_over = self.progress.has_ended() || self.is_distrusted();
            if holds(self.believed()) {
                return true;
            }
            if is_over {
                return false;
            }
            changed.await;
        }
    }

    /// The same as [`read`](Self::read), waiting for the pack if it is about to bring what is missing.
    pub(crate) async fn await_bytes(
        &self,
        number: u16,
        layer: &Layer,
        range: &Range<u64>,
    ) -> Option<Vec<u8>> {
        let shelf = self.believed()?;
        let (begun, mut waiting) = (Instant::now(), None);
        loop {
            let changed = self.progress.changed();
            let missing = shelf.missing(number, range, |rest| layer.file().has(rest))?;
            let Some(end) = missing else { return self.read(number, layer, range) };
            if !self.progress.is_near(end) || begun.elapsed() > PATIENCE {
                return None;
            }
            waiting.get_or_insert_with(|| self.progress.wait());
            timeout(STALL, changed).await.ok()?;
        }
    }

    /// Whether the pack has a range, or is still to bring it: then nothing of it is worth fetching ahead.
    pub(crate) fn covers(&self, number: u16, layer: &Layer, range: &Range<u64>) -> bool {
        self.brings(number, range, |rest| layer.file().has(rest))
    }

    fn brings(&self, number: u16, range: &Range<u64>, is_elsewhere: impl Fn(&Range<u64>) -> bool) -> bool {
        match self.believed().and_then(|shelf| shelf.missing(number, range, is_elsewhere)) {
            Some(None) => true,
            Some(Some(_)) => !self.progress.has_ended(),
            None => false,
        }
    }

    /// Whether the pack itself has a range, or is still to bring it, whoever else has it.
    pub(crate) fn holds(&self, number: u16, range: &Range<u64>) -> bool {
        self.brings(number, range, |_| false)
    }

    /// Whether it was made of starts.
    pub fn is_learnt(&self) -> bool {
        self.learnt
    }

    /// How much there is of it.
    pub fn figures(&self) -> BootFigures {
        self.shelf.get().map(|shelf| shelf.figures()).unwrap_or_default()
    }

    /// Whether nothing more comes.
    pub fn has_ended(&self) -> bool {
        self.progress.has_ended()
    }
}
