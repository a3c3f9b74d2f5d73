//! Serving mounts whose large files the kernel reads by itself, from one worker to the next.
//!
//! What the kernel was handed belongs to the connection and outlives the worker; what was decided for which file is
//! recorded in `<run-dir>/backing/<mount>`, which the next worker reads ([`jaunt_layerfs::fuse::BackingIds`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jaunt_layerfs::fs::{CompleteChain, LayerFs};
use jaunt_layerfs::fuse::init::InitError;
use jaunt_layerfs::fuse::{Adapter, BackingIds};

use crate::supervisor::Connection;

/// Whether a new mount of the chain should have passthrough: it is complete, and large files outweigh the others.
pub(crate) fn suits(fs: &LayerFs, complete: Option<&CompleteChain>) -> bool {
    complete.is_some() && fs.favours_passthrough()
}

/// Serves a mount as it was negotiated: a new one, or one that another worker has served. What is `complete` is handed
/// to the kernel.
///
/// # Errors
/// Another version made it, and this one cannot answer for what that has told the kernel.
pub(crate) fn adapter(
    fs: Arc<LayerFs>,
    complete: Option<CompleteChain>,
    mount: &Path,
    connection: &Connection,
    is_new: bool,
) -> Result<Adapter, InitError> {
    let Connection { negotiated, in_flight, .. } = connection;
    let adapter = Adapter::resuming(fs, tokio::runtime::Handle::current(), negotiated)?;
    let adapter = adapter.noting(in_flight.clone());
    if !negotiated.has_passthrough() {
        return Ok(adapter);
    }
    let ids = ids(&record(mount), is_new).unwrap_or_else(|error| {
        // Files that are open now cannot be opened once more; all else can.
        tracing::error!(mount = %mount.display(), %error, "cannot record what the kernel was handed");
        BackingIds::default()
    });
    Ok(adapter.with_passthrough(complete, ids))
}

/// Forgets what was recorded for an ended mount.
pub(crate) fn forget(mount: &Path) {
    match std::fs::remove_file(record(mount)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %mount.display(), %error, "cannot remove the record of a mount");
        }
        _ => {}
    }
}

fn ids(record: &Path, is_new: bool) -> io::Result<BackingIds> {
    if !is_new {
        return BackingIds::open(record);
    }
    if let Some(directory) = record.parent() {
        std::fs::create_dir_all(directory)?;
    }
    BackingIds::create(record)
}

/// `<run-dir>/mnt/<key>` is the mount, `<run-dir>/backing/<key>` its record.
fn record(mount: &Path) -> PathBuf {
    let run_dir = mount.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    run_dir.join("backing").join(mount.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lies_beside_the_mounts_and_goes_with_its_own() {
        let run_dir = tempfile::tempdir().unwrap();
        let mount = run_dir.path().join("mnt/17");
        let place = record(&mount);
        assert_eq!(place, run_dir.path().join("backing/17"));
        assert!(ids(&place, false).is_err(), "nothing was recorded");
        assert!(ids(&place, true).is_ok() && ids(&place, false).is_ok());
        forget(&mount);
        forget(&mount);
        assert!(!place.exists());
    }
}
