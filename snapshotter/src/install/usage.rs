//! Whether something still stands on the snapshotter: asked of the daemon, and looked for where it does not answer.

use super::InstallError;
use super::host::Host;
use crate::config::Config;
use crate::fallback::error_chain;
use crate::metastore::{self, Table};
use crate::supervisor::DirectoryLock;
use crate::{mountinfo, status};

/// Refuses, if snapshots are in use, or that cannot be told.
pub(super) async fn refuse_in_use(host: &Host, config: &Config) -> Result<(), InstallError> {
    let snapshots = match status::fetch(&host.at(&config.socket)?).await {
        Ok(status) => status.snapshots.len(),
        Err(error) => look(host, config, &error_chain(&error))?,
    };
    if snapshots == 0 { Ok(()) } else { Err(InstallError::InUse(snapshots)) }
}

fn look(host: &Host, config: &Config, silent: &str) -> Result<usize, InstallError> {
    let unknown = |why: &str| InstallError::UseUnknown(format!("{silent}, and {why}"));
    let (root, run_dir) = (host.at(&config.root)?, host.at(&config.run_dir)?);
    if DirectoryLock::is_held(&root) {
        return Err(unknown("it runs"));
    }
    let mounts = match run_dir.canonicalize() {
        Ok(run_dir) => mountinfo::below(&run_dir).map_err(|error| unknown(&error.to_string()))?.len(),
        Err(_) => 0,
    };
    let database = root.join("meta.redb");
    if mounts > 0 || !database.exists() {
        return Ok(mounts);
    }
    let rows = metastore::inspect(&database).map_err(|error| unknown(&error_chain(&error)))?;
    let unread = rows.unread.iter().filter(|(table, ..)| *table == Table::Snapshots).count();
    Ok(rows.snapshots.len() + unread)
}
