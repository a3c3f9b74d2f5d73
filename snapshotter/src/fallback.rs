//! Why a layer was unpacked instead of mounted lazily: never silently.
//!
//! Every fallback has a code from a closed list, is logged once for an image, counted, and kept for
//! `status`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use jaunt_formats::error_chain;

/// Stable reasons. Their words, [`FallbackCode::as_str`], are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FallbackCode {
    /// containerd did not say which image the layer belongs to.
    NoImageLabels,
    /// It did, but not in a form that can be trusted.
    BadLabels,
    /// The repository holds no launch artifact for this manifest.
    NoLaunchArtifact,
    /// The registry does not answer.
    RegistryUnreachable,
    /// The registry wants other credentials.
    RegistryRefused,
    /// The registry answers, but not usefully.
    RegistryError,
    /// Everything together took longer than `resolve_timeout`.
    Timeout,
    /// The artifact's manifest is not what it should be.
    BadArtifact,
    /// The artifact is signed by none of the keys that are trusted for its repository.
    UntrustedArtifact,
    /// The launch index does not open, or is not the one the artifact names.
    BadIndex,
    /// The index's diffIDs do not hash to the chain that containerd asks for.
    ChainMismatch,
    /// A converted layer is no longer in the repository.
    ConvertedLayerMissing,
    /// There is no artifact, and a layer that says it can be read as it is fails its checks.
    UnusableLayer,
    /// The launch index was found to lie about its layers.
    Quarantined,
    /// Another snapshot has the chain's name, or the parent is not the chain beneath.
    SnapshotConflict,
    /// The index cannot be kept on this node.
    LocalStorage,
}

impl FallbackCode {
    /// Every code.
    pub const ALL: [Self; 16] = [
        Self::NoImageLabels,
        Self::BadLabels,
        Self::NoLaunchArtifact,
        Self::RegistryUnreachable,
        Self::RegistryRefused,
        Self::RegistryError,
        Self::Timeout,
        Self::BadArtifact,
        Self::UntrustedArtifact,
        Self::BadIndex,
        Self::ChainMismatch,
        Self::ConvertedLayerMissing,
        Self::UnusableLayer,
        Self::Quarantined,
        Self::SnapshotConflict,
        Self::LocalStorage,
    ];

    /// The code as logs, `status` and metrics show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoImageLabels => "no-image-labels",
            Self::BadLabels => "bad-labels",
            Self::NoLaunchArtifact => "no-launch-artifact",
            Self::RegistryUnreachable => "registry-unreachable",
            Self::RegistryRefused => "registry-refused",
            Self::RegistryError => "registry-error",
            Self::Timeout => "timeout",
            Self::BadArtifact => "bad-artifact",
            Self::UntrustedArtifact => "untrusted-artifact",
            Self::BadIndex => "bad-index",
            Self::ChainMismatch => "chain-mismatch",
            Self::ConvertedLayerMissing => "converted-layer-missing",
            Self::UnusableLayer => "unusable-layer",
            Self::Quarantined => "quarantined",
            Self::SnapshotConflict => "snapshot-conflict",
            Self::LocalStorage => "local-storage",
        }
    }
}

/// One reason, with its causes in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Which of the reasons.
    pub code: FallbackCode,
    /// What happened, causes included.
    pub detail: String,
}

impl Fallback {
    /// A reason in words.
    pub fn new(code: FallbackCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// A reason with an error and all its causes.
    pub fn from_error(code: FallbackCode, error: &dyn std::error::Error) -> Self {
        Self { code, detail: error_chain(error) }
    }
}

/// A fallback that happened.
#[derive(Clone, Debug)]
pub struct FallbackRecord {
    /// When.
    pub at: SystemTime,
    /// Why.
    pub fallback: Fallback,
    /// The image as containerd named it; empty when it did not.
    pub image: String,
    /// The layer's digest or chain ID.
    pub layer: String,
}

/// Fallbacks since the daemon started.
#[derive(Default)]
pub struct FallbackLog(Mutex<Log>);

#[derive(Default)]
struct Log {
    counts: BTreeMap<FallbackCode, u64>,
    recent: VecDeque<FallbackRecord>,
    warned: BTreeMap<(String, FallbackCode), Instant>,
}

/// Kept for `status`: the layers of a few images.
const RECENT_MAX: usize = 256;
/// References have 255 at most, besides a registry's host and a digest.
const NAME_CHARS: usize = 512;
/// An image's layers are prepared within this of one another: one warning serves them.
const WARN_AGAIN: Duration = Duration::from_secs(30);

impl FallbackLog {
    /// Counts and keeps a fallback, and warns of it once for an image.
    pub fn record(&self, fallback: &Fallback, image: &str, layer: &str) {
        let code = fallback.code;
        let (image, layer) = (&presentable(image), &presentable(layer));
        if self.keep(fallback, image, layer) {
            tracing::warn!(
                image,
                layer,
                reason = code.as_str(),
                detail = fallback.detail,
                "unpacking instead of mounting lazily"
            );
        } else {
            tracing::debug!(image, layer, reason = code.as_str(), "unpacking this layer too");
        }
    }

    /// How often each reason was met.
    pub fn counts(&self) -> BTreeMap<FallbackCode, u64> {
        self.lock().counts.clone()
    }

    /// The latest, oldest first.
    pub fn recent(&self) -> Vec<FallbackRecord> {
        self.lock().recent.iter().cloned().collect()
    }

    /// Whether a warning is due.
    fn keep(&self, fallback: &Fallback, image: &str, layer: &str) -> bool {
        let mut log = self.lock();
        *log.counts.entry(fallback.code).or_default() += 1;
        if log.recent.len() == RECENT_MAX {
            log.recent.pop_front();
        }
        log.recent.push_back(FallbackRecord {
            at: SystemTime::now(),
            fallback: fallback.clone(),
            image: image.to_owned(),
            layer: layer.to_owned(),
        });
        let now = Instant::now();
        log.warned.retain(|_, at| now.duration_since(*at) < WARN_AGAIN);
        log.warned.insert((image.to_owned(), fallback.code), now).is_none()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller named, fit for a line of a log and for a terminal: he may have named anything.
fn presentable(name: &str) -> String {
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    name.chars().take(NAME_CHARS).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct() {
        let words: std::collections::BTreeSet<_> = FallbackCode::ALL.map(FallbackCode::as_str).into();
        assert_eq!(words.len(), FallbackCode::ALL.len());
    }

    #[test]
    fn warns_once_for_an_image_and_forgets_the_oldest() {
        let log = FallbackLog::default();
        let reason = Fallback::new(FallbackCode::NoLaunchArtifact, "none");
        assert!(log.keep(&reason, "a", "1"));
        assert!(!log.keep(&reason, "a", "2"));
        assert!(log.keep(&reason, "b", "1"));
        for layer in 0..RECENT_MAX {
            log.keep(&reason, "c", &layer.to_string());
        }
        assert_eq!(log.recent().len(), RECENT_MAX);
        assert_eq!(log.recent()[0].layer, "0");
        assert_eq!(log.counts()[&FallbackCode::NoLaunchArtifact], 3 + RECENT_MAX as u64);
    }
}
