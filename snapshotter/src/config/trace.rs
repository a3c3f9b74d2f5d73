//! Whether what happens is written down.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The table `[trace]`; what it leaves out has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceConfig {
    /// Where steps, touches and fetches are written, a line of JSON each; empty: nowhere.
    pub file: PathBuf,
}

impl TraceConfig {
    /// The file, if there is to be one.
    pub fn path(&self) -> Option<&Path> {
        (!self.file.as_os_str().is_empty()).then_some(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_unless_a_file_is_named() {
        let config = |text: &str| toml::from_str::<TraceConfig>(text).unwrap();
        assert_eq!(config("").path(), None);
        assert_eq!(config("file = \"\"").path(), None);
        assert_eq!(config("file = \"/a\"").path(), Some(Path::new("/a")));
        assert!(toml::from_str::<TraceConfig>("path = \"/a\"").is_err());
    }
}
