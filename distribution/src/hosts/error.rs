//! Why the settings of a registry cannot be used. Every error names the file, and the line where a file
//! has lines.

use std::io;
use std::path::PathBuf;

use crate::hosts::hosts_toml::HostsTomlError;

/// Settings of a registry that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// A file or directory cannot be read, or is no such thing as settings are kept in.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A `hosts.toml` that makes no sense.
    #[error("{}: {source}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: HostsTomlError,
    },
    /// A certificate or key that makes no sense.
    #[error("{}: line {line}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A registry's name that no URL can be made of, such as `1.2.3.999`.
    #[error("{registry} is not valid as the host of a URL")]
    NoHost {
        /// The registry.
        registry: String,
    },
    /// The reading was given up because the process is ending.
    #[error("the settings could not be read: {source}")]
    Interrupted {
        /// The cause.
        source: tokio::task::JoinError,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("{}: {reason}", path.display())]
    Unpaired {
        /// The file.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
}
