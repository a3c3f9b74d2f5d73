//! Which boot packs are worth what they cost on this node: one that starts hardly use is not fetched any more.
//!
//! ```text
//! <root>/boot-worth.json    {"<digest of a pack>": <starts in a row that hardly used it>}
//! ```
//!
//! Known of starts that are traced, for what the kernel was given unasked cannot be seen to be used. Once one hardly used a pack, the next
//! ones are traced too, until it is known. A start that makes use of the pack begins the count anew, and a pack that is made anew has another
//! digest. That the file is lost costs a few fetches.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jaunt_formats::Digest;
use jaunt_layerfs::boot::BootFigures;
use prometheus_client::metrics::counter::Counter;

/// Starts in a row after which a pack is not fetched any more.
const POOR_STARTS: u32 = 3;
/// A start makes use of a pack that reads at least this part of it: 1 of so many bytes.
const USED_ONE_IN: u64 = 4;
/// Bytes of content below which a pack costs nothing that is worth a thought.
const SMALL: u64 = 1 << 20;
/// Packs that are remembered.
const MAX_PACKS: usize = 4096;
/// Bytes of the file, with room to spare.
const MAX_LEN: u64 = 1 << 20;

/// What is known of packs.
pub struct Worth {
    path: PathBuf,
    state: Mutex<State>,
    set_aside: Counter,
}

#[derive(Default)]
struct State {
    /// Starts in a row that hardly used a pack.
    poor: BTreeMap<Digest, u32>,
    /// Which pack came with a launch index, in this life: what is found again after a restart counts the bytes anew that are used of it, while
    /// the layers may have them by then.
    packs: HashMap<Digest, Digest>,
}

impl Worth {
    /// What an earlier life has learnt below `root`.
    pub fn open(root: &Path) -> Self {
        let path = root.join("boot-worth.json");
        let poor = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "which boot packs do not help has to be learnt anew");
            }
            BTreeMap::new()
        });
        Self { path, state: Mutex::new(State { poor, ..State::default() }), set_aside: Counter::default() }
    }

    /// Whether a pack is to be fetched for an index; counted where it is not.
    pub fn is_worth(&self, index: Digest, pack: Digest) -> bool {
        let mut state = self.lock();
        if state.poor.get(&pack).is_some_and(|starts| *starts >= POOR_STARTS) {
            self.set_aside.inc();
            tracing::info!(%index, %pack, "a boot pack is not fetched: {POOR_STARTS} starts in a row hardly used it");
            return false;
        }
        if state.packs.len() >= MAX_PACKS {
            state.packs.clear();
        }
        state.packs.insert(index, pack);
        true
    }

    /// Whether the last start that was traced with the pack of an index hardly used it.
    pub fn is_in_doubt(&self, index: &Digest) -> bool {
        let state = self.lock();
        state.packs.get(index).is_some_and(|pack| state.poor.contains_key(pack))
    }

    /// Notes what a traced start has used of the pack of an index.
    pub fn note(&self, index: &Digest, figures: BootFigures) {
        let BootFigures { content_bytes, present_bytes, used_bytes } = figures;
        if content_bytes < SMALL || present_bytes < content_bytes {
            return;
        }
        let mut state = self.lock();
        let Some(pack) = state.packs.get(index).copied() else { return };
        if used_bytes.saturating_mul(USED_ONE_IN) >= content_bytes {
            if state.poor.remove(&pack).is_none() {
                return;
            }
        } else {
            if state.poor.len() >= MAX_PACKS {
                state.poor.pop_first();
            }
            let starts = state.poor.entry(pack).or_default();
            *starts = starts.saturating_add(1);
            if *starts == POOR_STARTS {
                tracing::warn!(%index, %pack, content_bytes, used_bytes, "a boot pack does not help here: it is not fetched any more, until another one is made");
            }
        }
        if let Err(error) = write(&self.path, &state.poor) {
            tracing::warn!(path = %self.path.display(), %error, "which boot packs do not help cannot be kept");
        }
    }

    /// Packs that are not fetched any more.
    pub fn set_aside(&self) -> u64 {
        self.lock().poor.values().filter(|starts| **starts >= POOR_STARTS).count() as u64
    }

    /// How often one was not.
    pub fn counter(&self) -> Counter {
        self.set_aside.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is of one entry.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Digest, u32>> {
    if std::fs::metadata(path)?.len() > MAX_LEN {
        return Err(io::Error::other("too long"));
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn write(path: &Path, poor: &BTreeMap<Digest, u32>) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(poor)?)?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_in_doubt_from_a_start_that_hardly_used_it_to_one_that_does() {
        let dir = tempfile::tempdir().unwrap();
        let [index, pack, other] = [b"index", b"paack", b"other"].map(|text| Digest::of(text));
        let worth = Worth::open(dir.path());
        let note = |worth: &Worth, used_bytes| {
            worth.note(&index, BootFigures { content_bytes: 4 << 20, present_bytes: 4 << 20, used_bytes });
            worth.is_in_doubt(&index)
        };
        assert!(worth.is_worth(index, pack) && !worth.is_in_doubt(&index), "nobody has started it yet");
        assert_eq!([1000, 1000, 1 << 20, 1000].map(|used| note(&worth, used)), [true, true, false, true]);
        // After a restart it is from when the pack is fetched again.
        let again = Worth::open(dir.path());
        assert!(!again.is_in_doubt(&index));
        assert!(again.is_worth(index, pack) && again.is_in_doubt(&index));
        assert!(again.is_worth(index, other) && !again.is_in_doubt(&index), "the next pack is another one");
    }

    #[test]
    fn a_pack_that_three_starts_in_a_row_hardly_use_is_not_fetched_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let [index, pack, other] = [b"index", b"paack", b"other"].map(|text| Digest::of(text));
        let used = |used_bytes| BootFigures { content_bytes: 4 << 20, present_bytes: 4 << 20, used_bytes };
        let worth = Worth::open(dir.path());
        let starts = |worth: &Worth, all: &[BootFigures]| {
            all.iter().for_each(|figures| worth.note(&index, *figures));
            worth.is_worth(index, pack)
        };
        let (poor, good) = (used(1000), used(1 << 20));
        assert!(starts(&worth, &[poor; 5]), "nobody knows yet whose starts those are");
        assert!(starts(&worth, &[poor, poor, good, poor, poor]), "one made use of it");
        let small = BootFigures { content_bytes: SMALL - 1, present_bytes: SMALL - 1, used_bytes: 0 };
        let half = BootFigures { present_bytes: 1, ..poor };
        assert!(starts(&worth, &[small, half, small, half]), "that says nothing");
        assert!(!starts(&worth, &[poor]));
        assert_eq!((worth.set_aside(), worth.counter().get()), (1, 1));
        // It outlives a restart; the next pack is another one, and what is damaged is as nothing.
        let again = Worth::open(dir.path());
        assert!(!again.is_worth(index, pack) && again.is_worth(index, other));
        std::fs::write(dir.path().join("boot-worth.json"), "{").unwrap();
        assert!(Worth::open(dir.path()).is_worth(index, pack));
    }
}
