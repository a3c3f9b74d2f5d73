//! What is fetched of images because earlier starts touched it.

use serde::{Deserialize, Serialize};

/// The table `[boot]`; what it leaves out has its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootConfig {
    /// Whether boot packs are fetched.
    pub enabled: bool,
    /// MiB of a pack beyond which it is not fetched.
    pub max_mib: u64,
}

impl Default for BootConfig {
    fn default() -> Self {
        Self { enabled: true, max_mib: 256 }
    }
}
