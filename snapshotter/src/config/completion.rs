//! What is fetched of images that nobody reads.

use std::num::NonZeroU64;
use std::time::Duration;

use jaunt_layerfs::completion;
use serde::{Deserialize, Serialize};

/// The table `[completion]`; what it leaves out has its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompletionConfig {
    /// Whether the rest of mounted images is fetched, and checked.
    pub enabled: bool,
    /// MB (millions of bytes) a second that are fetched for it at most; 0: as many as come.
    pub limit_mb_per_second: u64,
    /// How long a newly mounted image is left alone.
    pub delay_seconds: u64,
}

impl Default for CompletionConfig {
    fn default() -> Self {
        Self { enabled: true, limit_mb_per_second: 50, delay_seconds: 30 }
    }
}

impl CompletionConfig {
    /// The same, as it is done; `None` if it is not.
    pub fn settings(&self) -> Option<completion::Settings> {
        let delay = Duration::from_secs(self.delay_seconds);
        self.enabled.then_some(completion::Settings { delay })
    }

    /// Bytes a second that are fetched in the background at most; none: as many as come.
    pub fn limit(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.limit_mb_per_second.saturating_mul(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_in_millions_of_bytes_and_nonsense_is_refused() {
        let config: CompletionConfig = toml::from_str("limit_mb_per_second = 3\ndelay_seconds = 0").unwrap();
        assert_eq!(config.limit(), NonZeroU64::new(3_000_000));
        assert_eq!(config.settings(), Some(completion::Settings { delay: Duration::ZERO }));
        let off: CompletionConfig = toml::from_str("enabled = false").unwrap();
        assert_eq!(off.settings(), None);
        let open: CompletionConfig = toml::from_str("limit_mb_per_second = 0").unwrap();
        assert_eq!(open.limit(), None);
        for bad in ["limit_mb_per_second = -1", "delay_seconds = \"1\"", "limit = 1"] {
            assert!(toml::from_str::<CompletionConfig>(bad).is_err(), "{bad}");
        }
    }
}
