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
    /// Whether what a pack brings is put into the kernel's page cache before it is asked for.
    pub push: bool,
    /// Of the starts of images whose pack was learnt, one in so many is traced, and nothing pushed for it; 0: none is.
    pub trace_one_in: u64,
    /// Traces of starts that are kept; 0: none are taken.
    pub keep_traces: u64,
    /// A start is over when nothing new has been touched for so long.
    pub settled_seconds: u64,
    /// No start is traced for longer.
    pub longest_seconds: u64,
}

impl Default for BootConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            max_mib: 256,
            push: true,
            trace_one_in: 16,
            keep_traces: 64,
            settled_seconds: 5,
            longest_seconds: 60,
        }
    }
}
