//! What of the kernel is not to be used, as if it did not have it.

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
