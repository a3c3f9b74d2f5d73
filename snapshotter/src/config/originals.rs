//! Whether containerd's content store gets the original blobs of lazily pulled images.

use serde::{Deserialize, Serialize};

/// When original blobs are brought to containerd, unless somebody asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OriginalsPolicy {
    /// Not at all.
    #[default]
    Never,
    /// After a pull, one after the other.
    Background,
}

impl OriginalsPolicy {
    /// As it is configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Background => "background",
        }
    }
}
