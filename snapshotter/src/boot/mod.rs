//! Boot packs of this node: asked for as soon as an image's launch artifact is known, before its index is here and long before
//! containerd is done with its bookkeeping. Nothing waits for them.
//!
//! ```text
//! <root>/boot/<index hex>    what the pack of a launch index has brought (layerfs::boot)
//! ```
//!
//! A pack is loaded only with the first resolution of its index on this node: what comes to be known of the same index later, from
//! whatever repository, changes nothing for those who use it.

mod command;
mod reads;
mod runtime;
mod sender;
mod traces;
mod worth;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jaunt_distribution::{Client, Repository};
use jaunt_formats::Digest;
use jaunt_formats::launch::LaunchIndex;
use jaunt_layerfs::boot::{Boot, Expected, LoadError, Loaded, NamedPack};
use jaunt_layerfs::fs::LayerFs;
use jaunt_layerfs::index_file::MappedIndex;
use jaunt_layerfs::layers::Layers;
use jaunt_layerfs::source::RegistrySource;
use jaunt_layerfs::store::LargeFiles;
use tokio::sync::oneshot;

use crate::config::BootConfig;
use crate::fallback::error_chain;

pub use command::{TraceArgs, TraceCommandError, run as run_trace};
pub use reads::Start;
pub use sender::{SendCounters, Sender};
pub use traces::{Traces, directory as traces_directory};
pub use worth::Worth;

/// How long a pack is kept that no snapshot uses yet: containerd records one some milliseconds after the resolution.
const UNUSED: Duration = Duration::from_secs(600);

/// The packs of this node.
pub struct BootPacks {
    directory: PathBuf,
    layers: Layers,
    config: BootConfig,
    open: Mutex<HashMap<Digest, Open>>,
    traces: Option<Arc<Traces>>,
    sent: SendCounters,
    worth: Arc<Worth>,
}

/// A pack that is here, or on its way.
struct Open {
    boot: Arc<Boot>,
    since: Instant,
    /// A snapshot has used it: once none does any more, it may go.
    was_wanted: bool,
    /// Whether starts go without what it would push, to show what has changed since it was learnt, or whether it is worth its bytes.
    sampled: bool,
}

impl Open {
    fn new(boot: Arc<Boot>, sampled: bool) -> Self {
        Self { boot, since: Instant::now(), was_wanted: false, sampled }
    }
}

/// What is done beside a start: pages that the kernel was given unasked cannot be seen to be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// What it touches is noted.
    Trace,
    /// The kernel is given what the pack brings.
    Push,
    /// Neither.
    Nothing,
}

/// A pack on its way. Dropped without [`admitted`](Self::admitted), it is given up.
#[must_use]
pub struct Begun(oneshot::Sender<Expected>);

impl Begun {
    /// Says what it must be of: a launch index that was checked, and is believed.
    pub fn admitted(self, index: Expected) {
        let _ = self.0.send(index);
    }
}

impl BootPacks {
    /// Those kept below `root`, of images whose layers are `layers`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(root: &Path, layers: Layers, config: BootConfig) -> std::io::Result<Arc<Self>> {
        let directory = root.join("boot");
        std::fs::create_dir_all(&directory)?;
        let worth = Arc::new(Worth::open(root));
        let traces = Traces::open(root, &config, worth.clone())?;
        Ok(Arc::new(Self {
            directory,
            layers,
            config,
            open: Mutex::default(),
            traces,
            sent: SendCounters::default(),
            worth,
        }))
    }

    /// What notes starts, if anything does.
    pub fn traces(&self) -> Option<&Arc<Traces>> {
        self.traces.as_ref()
    }

    /// How many traces were sent.
    pub fn send_counters(&self) -> &SendCounters {
        &self.sent
    }

    /// Which packs help.
    pub fn worth(&self) -> &Arc<Worth> {
        &self.worth
    }

    /// Somebody asks for an image that is new to this node: a container is about to be made.
    pub fn read_runtime_ahead(&self) {
        if !self.config.runtime.is_empty() {
            let programs = self.config.runtime.clone();
            tokio::task::spawn_blocking(move || runtime::read_ahead(&programs));
        }
    }

    /// Begins to load the pack of an index that is new to this node; `None` where it is not to be had.
    pub fn begin(
        self: &Arc<Self>,
        client: &Client,
        repository: &Repository,
        index: Digest,
        pack: NamedPack,
    ) -> Option<Begun> {
        if !self.config.enabled || pack.len > self.config.max_mib.saturating_mul(1 << 20) {
            tracing::debug!(%index, len = pack.len, "a boot pack is not fetched: the configuration says so");
            return None;
        }
        let boot = {
            let mut open = self.lock();
            if open.contains_key(&index) || !self.worth.is_worth(index, pack.digest) {
                return None;
            }
            let boot = Arc::new(Boot::of(&pack));
            open.insert(index, Open::new(boot.clone(), self.is_sampled(&index)));
            boot
        };
        let (admitted, expected) = oneshot::channel();
        let source = Arc::new(RegistrySource::new(client.clone(), repository.clone()));
        let (this, repository) = (self.clone(), repository.clone());
        tokio::spawn(async move {
            let path = this.path(&index);
            let begun = Instant::now();
            let loaded = boot.load(pack, source, &this.layers, &path, async { expected.await.ok() }).await;
            tell(&repository, &loaded, &boot, begun.elapsed());
            if !matches!(loaded, Ok(Loaded::Whole)) && boot.figures().present_bytes == 0 {
                this.lock().remove(&index);
                let _ = std::fs::remove_file(path);
            }
        });
        Some(Begun(admitted))
    }

    /// The pack of an index, on its way or as it was left by an earlier life.
    pub fn of(&self, digest: &Digest, index: &MappedIndex) -> Option<Arc<Boot>> {
        if let Some(open) = self.lock().get_mut(digest) {
            open.was_wanted = true;
            return Some(open.boot.clone());
        }
        // Nobody waits for the disk: whoever has opened it meanwhile was first.
        let opened = Arc::new(Boot::open(&self.path(digest), *digest, index.layers())?);
        let mut all = self.lock();
        let open = all.entry(*digest).or_insert_with(|| Open::new(opened, self.is_sampled(digest)));
        open.was_wanted = true;
        Some(open.boot.clone())
    }

    /// What is to be done beside the first start over a new mount of an index, at `point`, of which everything may be `local`; it is noted
    /// from now on if it is to be.
    pub fn begin_start(
        &self,
        fs: &Arc<LayerFs>,
        index: Digest,
        point: &Path,
        local: bool,
    ) -> (Beside, Option<Start>) {
        let beside = beside(self.traces.is_some(), self.pushed(&index));
        match (beside, &self.traces) {
            (Beside::Trace, Some(traces)) => {
                let wants_narrow = is_learnt(fs) || traces.are_few(&index);
                traces.record(fs, index, Some(point).filter(|_| !local && wants_narrow));
                (beside, None)
            }
            _ if local => (beside, None),
            _ => (beside, self.start_as_learnt(fs, point)),
        }
    }

    /// Has the first start over a new mount, at `point`, read no more at a time than those did that its pack was learnt of: what is not
    /// pushed, or not yet.
    pub fn start_as_learnt(&self, fs: &LayerFs, point: &Path) -> Option<Start> {
        is_learnt(fs).then(|| Start::to_come(point, &self.config)).flatten()
    }

    /// Whether starts of an index are to find pages pushed: the sooner it is mounted, the more of them.
    pub fn is_pushed(&self, index: &Digest) -> bool {
        beside(self.traces.is_some(), self.pushed(index)) == Beside::Push
    }

    fn is_sampled(&self, index: &Digest) -> bool {
        is_sampled(self.config.trace_one_in, self.worth.is_in_doubt(index))
    }

    fn pushed(&self, index: &Digest) -> Pushed {
        match self.lock().get(index).filter(|_| self.config.push) {
            None => Pushed::Nothing,
            Some(open) if open.boot.is_learnt() => Pushed::Learnt { sampled: open.sampled },
            Some(_) => Pushed::Guessed,
        }
    }

    /// Forgets the packs of indexes that are not `wanted`. Who reads from one still has it.
    pub fn retain(&self, wanted: impl Fn(&Digest) -> bool) {
        self.lock().retain(|index, open| {
            let is_wanted = wanted(index);
            open.was_wanted |= is_wanted;
            is_wanted || !open.was_wanted && open.since.elapsed() < UNUSED
        });
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = format!("sha256:{}", entry.file_name().to_string_lossy());
            let is_kept = name.parse().is_ok_and(|index| wanted(&index) || self.lock().contains_key(&index));
            if !is_kept && let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "an unused boot pack cannot be removed");
            }
        }
    }

    fn path(&self, index: &Digest) -> PathBuf {
        self.directory.join(index.hex())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Open>> {
        // Every change is one call.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_learnt(fs: &LayerFs) -> bool {
    fs.boot().is_some_and(|boot| boot.is_learnt())
}

/// What there is to be pushed.
#[derive(Clone, Copy, Debug)]
enum Pushed {
    Nothing,
    /// A pack of what the image's command was found to need.
    Guessed,
    /// A pack of starts; whether this is one of those that show what has changed since.
    Learnt {
        sampled: bool,
    },
}

fn beside(traces: bool, pushed: Pushed) -> Beside {
    match pushed {
        Pushed::Nothing if !traces => Beside::Nothing,
        Pushed::Learnt { sampled: true } | Pushed::Guessed | Pushed::Nothing if traces => Beside::Trace,
        _ => Beside::Push,
    }
}

/// Whether what is learnt is looked at: once in so many times, and every time while it is in doubt; never for 0.
fn is_sampled(one_in_many: u64, in_doubt: bool) -> bool {
    one_in(one_in_many) || in_doubt && one_in_many > 0
}

/// Once in so many calls, by chance; never for 0.
fn one_in(many: u64) -> bool {
    // Every state has keys of its own.
    many > 0 && RandomState::new().hash_one(()).is_multiple_of(many)
}

/// What a pack of this launch index must be of.
pub fn expected<B: AsRef<[u8]>>(index: Digest, open: &LaunchIndex<B>) -> Expected {
    let large = LargeFiles::of_layers(open);
    Expected { index, layers: open.layers().iter().cloned().zip(large).collect() }
}

fn tell(repository: &Repository, loaded: &Result<Loaded, LoadError>, boot: &Boot, took: Duration) {
    let (bytes, milliseconds) = (boot.figures().present_bytes, took.as_secs_f64() * 1000.0);
    match loaded {
        Ok(Loaded::Whole) => tracing::info!(%repository, bytes, milliseconds, "boot pack is here"),
        Ok(Loaded::NotNeeded) => {
            tracing::info!(%repository, "most of a boot pack is local: the rest of it is not fetched")
        }
        Err(LoadError::Stopping) => tracing::debug!(%repository, "a boot pack is not wanted any more"),
        Err(error) => {
            let why = error_chain(error);
            tracing::warn!(%repository, bytes, why, "boot pack cannot be used: what it does not bring is fetched by spans");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_learnt_is_traced_and_the_rest_pushed() {
        let (rare, other) = (Pushed::Learnt { sampled: true }, Pushed::Learnt { sampled: false });
        let cases = [
            (Pushed::Nothing, Beside::Trace, Beside::Nothing),
            (Pushed::Guessed, Beside::Trace, Beside::Push),
            (rare, Beside::Trace, Beside::Push),
            (other, Beside::Push, Beside::Push),
        ];
        for (pushed, with_traces, without) in cases {
            assert_eq!((beside(true, pushed), beside(false, pushed)), (with_traces, without), "{pushed:?}");
        }
    }

    #[test]
    fn chance_keeps_to_its_bounds() {
        assert!(!(0..100).any(|_| one_in(0)));
        assert!((0..100).all(|_| one_in(1)));
    }

    #[test]
    fn a_pack_in_doubt_is_looked_at_every_time_unless_none_ever_is() {
        assert!((0..100).all(|_| is_sampled(u64::MAX, true)));
        assert!(!(0..100).any(|_| is_sampled(u64::MAX, false)));
        assert!(!(0..100).any(|_| is_sampled(0, true)));
    }
}
