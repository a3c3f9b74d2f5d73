//! How much of layers is kept, and what is done with it beside.

use std::num::NonZeroU64;
use std::time::Duration;

use jaunt_layerfs::store::{Cap, ScrubSettings};
use serde::{Deserialize, Serialize};

/// The table `[store]`; what it leaves out has its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// MiB on disk beyond which room is made; 0: only when the disk is full.
    pub cap_mib: u64,
    /// How full, in percent of the cap, the store is after room was made.
    pub low_percent: Percent,
    /// MB (millions of bytes) a second of complete layers that are read to be compared with what was written; 0: none.
    pub scrub_mb_per_second: u64,
    /// How long a layer is left alone after that.
    pub scrub_interval_hours: u64,
}

/// A whole number from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8")]
pub struct Percent(u8);

impl Default for StoreConfig {
    fn default() -> Self {
        Self { cap_mib: 0, low_percent: Percent(90), scrub_mb_per_second: 4, scrub_interval_hours: 24 }
    }
}

impl StoreConfig {
    /// The same, as the store is told.
    pub fn cap(&self) -> Cap {
        let high = self.cap_mib.saturating_mul(1 << 20);
        Cap { high: (high > 0).then_some(high), low: high / 100 * u64::from(self.low_percent.0) }
    }

    /// How complete layers are looked at; `None` if they are not.
    pub fn scrub(&self) -> Option<ScrubSettings> {
        let rate = NonZeroU64::new(self.scrub_mb_per_second.saturating_mul(1_000_000))?;
        let interval = Duration::from_secs(self.scrub_interval_hours.saturating_mul(3600));
        Some(ScrubSettings { rate, interval })
    }
}

impl TryFrom<u8> for Percent {
    type Error = String;

    fn try_from(value: u8) -> Result<Self, String> {
        match value {
            1..=100 => Ok(Self(value)),
            _ => Err(format!("{value} is no percentage between 1 and 100")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_in_bytes_and_nonsense_is_refused() {
        let config: StoreConfig = toml::from_str("cap_mib = 1000\nlow_percent = 80").unwrap();
        assert_eq!(config.cap(), Cap { high: Some(1000 << 20), low: 800 << 20 });
        assert_eq!(StoreConfig::default().cap().high, None);
        let scrub: StoreConfig = toml::from_str("scrub_mb_per_second = 1\nscrub_interval_hours = 2").unwrap();
        let (rate, interval) = (NonZeroU64::new(1_000_000).unwrap(), Duration::from_secs(7200));
        assert_eq!(scrub.scrub(), Some(ScrubSettings { rate, interval }));
        let off: StoreConfig = toml::from_str("scrub_mb_per_second = 0").unwrap();
        assert_eq!(off.scrub(), None);
        for bad in ["low_percent = 0", "low_percent = 101", "cap_mib = -1", "cap = 1"] {
            assert!(toml::from_str::<StoreConfig>(bad).is_err(), "{bad}");
        }
    }
}
