//! What of the kernel is not to be used, as if it did not have it, and how its requests are waited for.

use std::time::Duration;

use jaunt_layerfs::fuse::Threads;
use serde::{Deserialize, Serialize};

/// A feature of the kernel that Jaunt can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFeature {
    /// EROFS over files (Linux 6.12): all files of a complete chain are read by the kernel itself. It refuses `O_DIRECT`.
    Erofs,
    /// FUSE passthrough (Linux 6.9): large files of a complete chain are read by the kernel itself.
    Passthrough,
    /// Requests that a dead worker had taken are sent again (Linux 6.9). Without, they fail.
    Resend,
}

/// How long a thread looks for the next request before it sleeps: 0 to 1,000 microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct Linger(u32);

impl Linger {
    /// More would be no waiting for somebody who asks one thing after the other.
    const MOST: u32 = 1000;

    /// The same, as file systems are told.
    pub fn time(self) -> Duration {
        Duration::from_micros(self.0.into())
    }
}

impl Default for Linger {
    fn default() -> Self {
        Self(u32::try_from(Threads::LINGER.as_micros()).unwrap_or(Self::MOST))
    }
}

impl TryFrom<u32> for Linger {
    type Error = String;

    fn try_from(microseconds: u32) -> Result<Self, String> {
        match microseconds {
            0..=Self::MOST => Ok(Self(microseconds)),
            _ => Err(format!(
                "{microseconds} µs is longer than the {} µs that a thread may linger",
                Self::MOST
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn threads_linger_as_told_and_not_for_long() {
        let time = |text: &str| {
            toml::from_str::<Settings>(text).map(|settings| settings.complete().linger_microseconds.time())
        };
        assert_eq!(time("").unwrap(), Threads::LINGER);
        assert_eq!(time("linger_microseconds = 0").unwrap(), Duration::ZERO);
        assert_eq!(time("linger_microseconds = 1000").unwrap(), Duration::from_millis(1));
        let error = time("linger_microseconds = 1001").unwrap_err().to_string();
        assert!(error.contains("1001 µs is longer than the 1000 µs"), "{error}");
    }
}
