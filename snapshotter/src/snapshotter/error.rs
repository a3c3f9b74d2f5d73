//! Why a snapshot request fails.

use std::io;
use std::path::{Path, PathBuf};

use crate::filters::FilterError;
use crate::lazy::LazyError;
use crate::mapped::MapError;
use crate::metastore;

/// A failed request. [`crate::service`] holds the one table from these to gRPC codes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A rule of the snapshot model, or the metadata database.
    #[error(transparent)]
    Store(#[from] metastore::Error),
    /// The layer is present lazily: what containerd wants to hear from a remote snapshotter.
    #[error("target snapshot {0:?} already exists")]
    TargetReady(String),
    /// A lazy chain cannot be mounted or looked at.
    #[error(transparent)]
    Lazy(#[from] LazyError),
    /// A malformed List filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A user namespace mapping without a root.
    #[error("label {label}: {value:?} does not map the root of a user namespace")]
    Mapping {
        /// The label.
        label: &'static str,
        /// Its value.
        value: String,
    },
    /// Lower directories cannot be seen with other ids.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A user namespace, on a kernel that does not map ids of FUSE mounts.
    #[error(
        "this kernel cannot map the ids of a lazy image for a user namespace, Linux 6.12 can: without the capability \
         `remap-ids` in its configuration, containerd copies the image instead"
    )]
    Unmappable,
    /// The file system refuses.
    #[error("cannot {what} {path}", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The daemon is going down.
    #[error("the snapshotter is stopping")]
    Stopping,
}

/// For `map_err`: names what was tried, on what.
pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}
