//! What of the kernel is not to be used, as if it did not have it.

use serde::{Deserialize, Serialize};

/// A feature by which the kernel reads files of complete chains by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFeature {
    /// EROFS over files (Linux 6.12): all files of a complete chain. It refuses `O_DIRECT`.
    Erofs,
    /// FUSE passthrough (Linux 6.9): large files of a complete chain.
    Passthrough,
}
