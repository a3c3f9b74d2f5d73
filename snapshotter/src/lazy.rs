//! What the snapshotter asks of the part that mounts launch indexes.
//!
//! The snapshotter knows names, parents and readiness; [`LazyMounts`] knows file systems. The seam
//! keeps the containerd protocol testable without FUSE, and mounting testable without containerd.

use std::path::PathBuf;

use jaunt_formats::{ChainId, Digest};

/// A committed lazy snapshot: the first `prefix` layers of a launch index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LazyChain {
    /// The snapshot's id, never reused; names the mount (`<run-dir>/mnt/<id>`).
    pub snapshot_id: u64,
    /// Chain ID of those layers; the index's diffIDs hash to it (checked before the record is made).
    pub chain_id: ChainId,
    /// Digest of the launch index blob, whose raw bytes lie in the index store.
    pub index: Digest,
    /// How many layers of the index, from the bottom: at least 1.
    pub prefix: u16,
}

/// Owner and permission bits of a chain's root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootAttributes {
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a snapshot occupies on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// A boxed cause.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a lazy chain cannot be mounted, looked at or let go.
#[derive(Debug, thiserror::Error)]
pub enum LazyError {
    /// The index is not on disk, or its bytes are not what its digest says.
    #[error("launch index {index} cannot be used")]
    Index {
        /// The index.
        index: Digest,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// The index was found to lie about its layers.
    #[error("launch index {index} is in quarantine ({why}): remove the image, and pull it again")]
    Quarantined {
        /// The index.
        index: Digest,
        /// What was found.
        why: std::sync::Arc<str>,
    },
    /// The file system cannot be mounted or served.
    #[error("cannot mount snapshot {snapshot_id} ({chain_id})")]
    Mount {
        /// The snapshot.
        snapshot_id: u64,
        /// Its chain.
        chain_id: ChainId,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// Something still uses the mount; it stays.
    #[error("the mount of snapshot {snapshot_id} is in use")]
    Busy {
        /// The snapshot.
        snapshot_id: u64,
    },
    /// Anything else.
    #[error("snapshot {snapshot_id}: {what}")]
    Other {
        /// The snapshot.
        snapshot_id: u64,
        /// What was tried.
        what: &'static str,
        /// The cause.
        #[source]
        source: Cause,
    },
}

/// Mounts of lazy chains. All calls are idempotent and may run concurrently, also for one chain.
#[tonic::async_trait]
pub trait LazyMounts: Send + Sync + 'static {
    /// Makes sure the chain is mounted and served; returns its root, the directory `fs` in the mount.
    async fn ensure(&self, chain: &LazyChain) -> Result<PathBuf, LazyError>;

    /// The same for a pod's container: a mount that is made for it may tell the kernel not to ask for what nobody there
    /// asks for.
    async fn ensure_for_pod(&self, chain: &LazyChain) -> Result<PathBuf, LazyError> {
        self.ensure(chain).await
    }

    /// The chain is on record, and a container of it is likely to come soon: what makes its start quicker may begin. Nobody waits for it.
    async fn expect(&self, _chain: &LazyChain, _for_pod: bool) {}

    /// Owner and mode of the chain's root directory, without mounting it.
    async fn root(&self, chain: &LazyChain) -> Result<RootAttributes, LazyError>;

    /// The committed snapshot is gone: unmount it and forget what only it needed. A mount that was
    /// never made is no error; one that is in use is [`LazyError::Busy`] and is tried again later.
    async fn release(&self, chain: &LazyChain) -> Result<(), LazyError>;

    /// At start, before the first request: `chains` are all lazy snapshots on record. Serves anew
    /// those that the supervisor holds a mount of, and lets go of mounts that are not on record. One
    /// that cannot be served must not stop the others: it is logged and left for `ensure`.
    async fn restore(&self, chains: &[LazyChain]) -> Result<(), LazyError>;

    /// What of the chain's topmost layer is present locally.
    async fn usage(&self, chain: &LazyChain) -> Result<Usage, LazyError>;

    /// The root of the chain's mount when it is mounted now, for `status`.
    async fn mounted(&self, chain: &LazyChain) -> Option<PathBuf>;
}
