//! The machine's services, in the order in which they need each other: containerd is told of a daemon that serves, and a
//! daemon is ended that containerd has been told of no more.

use std::path::Path;
use std::time::{Duration, Instant};

use super::InstallError;
use super::host::Host;
use crate::fallback::error_chain;
use crate::status;

const UNIT: &str = "jaunt-snapshotter.service";
const PAUSE: Duration = Duration::from_millis(200);

/// Starts the daemon, and waits until it serves.
pub(super) async fn start(host: &Host, socket: &Path, patience: Duration) -> Result<(), InstallError> {
    systemctl(host, &["daemon-reload"])?;
    systemctl(host, &["enable", "--now", UNIT])?;
    let deadline = Instant::now() + patience;
    loop {
        // A link that is not there yet may be made by the daemon's start.
        match status::fetch(&host.at(socket)?).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(InstallError::NotServing(error_chain(&error)));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Ends the daemon, and forgets its unit.
pub(super) fn stop(host: &Host) -> Result<(), InstallError> {
    systemctl(host, &["disable", "--now", UNIT])
}

/// Has systemd read its units again.
pub(super) fn reload(host: &Host) -> Result<(), InstallError> {
    systemctl(host, &["daemon-reload"])
}

/// Has containerd read its configuration.
pub(super) fn restart_containerd(host: &Host) -> Result<(), InstallError> {
    systemctl(host, &["restart", "containerd.service"])
}

fn systemctl(host: &Host, words: &[&str]) -> Result<(), InstallError> {
    let program = host.find("systemctl").unwrap_or_else(|| "/usr/bin/systemctl".into());
    host.run(&program, words).map(drop)
}
