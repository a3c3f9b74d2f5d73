//! What is fetched of images because earlier starts touched it.

use std::path::PathBuf;

use jaunt_distribution::Repository;
use serde::{Deserialize, Serialize};

use super::trust::begins_a_name;
use crate::trust::lies_below;

/// The table `[boot]`; what it leaves out has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootConfig {
    /// Whether boot packs are fetched.
    pub enabled: bool,
    /// MiB of a pack beyond which it is not fetched.
    pub max_mib: u64,
    /// Whether what a pack brings is put into the kernel's page cache before it is asked for.
    pub push: bool,
    /// Of the starts of images whose pack was learnt, one in so many is traced, and nothing pushed for it; so are the next ones once one
    /// hardly used the pack, until it is known what it is worth. 0: none is.
    pub trace_one_in: u64,
    /// Traces of starts that are kept; 0: none are taken.
    pub keep_traces: u64,
    /// A start is over when nothing new has been touched for so long.
    pub settled_seconds: u64,
    /// No start is traced for longer.
    pub longest_seconds: u64,
    /// Repositories to which traces of their images are sent: those of these names, and all below them. Empty: none.
    pub send_traces_to: Vec<RepositoryPrefix>,
    /// Traces of one image that this node sends within seven days.
    pub sent_traces: u64,
    /// Programs that make containers, read ahead when an image is pulled that is new to the node: names, or absolute paths.
    pub runtime: Vec<PathBuf>,
}

/// The beginning of repositories' names: `host[:port][/name...]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct RepositoryPrefix(String);

impl RepositoryPrefix {
    /// Whether a repository has this name, or lies below it.
    pub fn includes(&self, repository: &Repository) -> bool {
        lies_below(&repository.to_string(), &self.0)
    }
}

impl TryFrom<String> for RepositoryPrefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let what = "is no beginning of a repository's name, such as \"registry.example/team\"";
        if begins_a_name(&text) { Ok(Self(text)) } else { Err(format!("{text:?} {what}")) }
    }
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
            send_traces_to: Vec::new(),
            sent_traces: 3,
            runtime: ["containerd-shim-runc-v2", "runc"].map(PathBuf::from).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_sent_where_a_prefix_says_and_nowhere_by_default() {
        assert!(BootConfig::default().send_traces_to.is_empty());
        let read = |text: &str| toml::from_str::<BootConfig>(text);
        let config = read("send_traces_to = [\"r.example/team\", \"r.example:5000\"]").unwrap();
        let is_told = |repository: &str| {
            let repository = repository.parse().unwrap();
            config.send_traces_to.iter().any(|prefix| prefix.includes(&repository))
        };
        assert!(is_told("r.example/team") && is_told("r.example/team/app") && is_told("r.example:5000/a"));
        assert!(!is_told("r.example/teams") && !is_told("r.example/a") && !is_told("other.example/team"));
        let error = read("send_traces_to = [\"https://r.example\"]").unwrap_err().to_string();
        assert!(error.contains("https://r.example") && error.contains("no beginning"), "{error}");
    }
}
