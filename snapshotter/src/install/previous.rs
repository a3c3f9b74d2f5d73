//! What our own files took the place of: kept beside them and on record until the daemon has served with the new ones, so that
//! the run after one that was cut short can go back as well.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::InstallError;
use super::files::{self, Planned, Record, Replaced, Written};
use super::host::Host;

const SUFFIX: &str = "previous";

/// What one of them took the place of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Previous {
    path: PathBuf,
    /// Where a copy of it is; none, if there was nothing.
    kept: Option<PathBuf>,
    /// What was on record of it.
    earlier: Option<Written>,
}

/// Keeps what `planned` is to take the place of, unless there is an older one: what followed that has not been seen to serve.
pub(super) fn keep(
    host: &Host,
    planned: &Planned,
    replaced: &Replaced,
    record: &mut Record,
) -> Result<(), InstallError> {
    let is_same = |previous: &Previous| previous.path == planned.path;
    if record.previous.iter().any(|previous| is_same(previous) && previous.kept.is_some()) {
        return Ok(());
    }
    let kept = replaced.bytes.as_ref().map(|now| files::keep(host, planned, now, SUFFIX)).transpose()?;
    record.previous.retain(|previous| !is_same(previous));
    record.previous.push(Previous { path: planned.path.clone(), kept, earlier: replaced.earlier.clone() });
    Ok(())
}

/// Whether there is anything to go back to.
pub(super) fn is_there(record: &Record) -> bool {
    record.previous.iter().any(|previous| previous.kept.is_some())
}

/// Goes back to it, the last one first.
pub(super) fn put_back(host: &Host, record: &mut Record) -> Result<(), InstallError> {
    while let Some(Previous { path, kept, earlier }) = record.previous.last().cloned() {
        let place = host.at(&path)?;
        let kept = kept.map(|kept| host.at(&kept)).transpose()?;
        match &kept {
            Some(kept) => {
                let bytes = files::read(kept)?.ok_or_else(|| InstallError::Lost(kept.clone()))?;
                files::replace(&place, &bytes, files::mode_of(kept).unwrap_or(0o644))?;
            }
            None => files::remove(&place)?,
        }
        record.previous.pop();
        record.go_back(host, &path, earlier)?;
        record.write(host)?;
        kept.map_or(Ok(()), |kept| files::remove(&kept))?;
    }
    Ok(())
}

/// Removes it, as nobody will go back to it.
pub(super) fn forget(host: &Host, record: &mut Record) -> Result<(), InstallError> {
    let previous = std::mem::take(&mut record.previous);
    record.write(host)?;
    for kept in previous.into_iter().filter_map(|previous| previous.kept) {
        files::remove(&host.at(&kept)?)?;
    }
    Ok(())
}
