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

/// Starts the daemon, and waits until it serves. One that runs already is replaced when it is to be `renewed`: it leaves its
/// mounts to the one that follows.
pub(super) async fn start(
    host: &Host,
    socket: &Path,
    patience: Duration,
    renewed: bool,
) -> Result<(), InstallError> {
    systemctl(host, &["daemon-reload"])?;
    systemctl(host, &["enable", UNIT])?;
    // systemd's own patience is the unit's: the time that may pass here is counted from now.
    let started = systemctl(host, &[if renewed { "restart" } else { "start" }, "--no-block", UNIT]);
    // A first attempt may fail where a daemon was left to what used it: it hands over, and the next one takes over.
    let told = started.err().map(|error| error_chain(&error));
    let deadline = Instant::now() + patience;
    loop {
        let seen = match systemctl(host, &["is-active", "--quiet", UNIT]) {
            Err(_) => format!("{UNIT} is not active"),
            // One that runs until its turn comes is not the one that was asked for.
            Ok(()) if is_queued(host)? => format!("{UNIT} is still being started"),
            // A link that is not there yet may be made by the daemon's start.
            Ok(()) => match status::fetch(&host.at(socket)?).await {
                Ok(_) => return Ok(()),
                Err(error) => error_chain(&error),
            },
        };
        if Instant::now() >= deadline {
            let seen = told.into_iter().chain([seen]).collect::<Vec<_>>().join("; ");
            return Err(InstallError::NotServing(seen));
        }
        tokio::time::sleep(PAUSE).await;
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

/// Whether systemd has still to start or end the daemon.
fn is_queued(host: &Host) -> Result<bool, InstallError> {
    let job = ask_systemctl(host, &["show", "--property", "Job", "--value", UNIT])?;
    Ok(!matches!(job.trim(), "" | "0"))
}

fn systemctl(host: &Host, words: &[&str]) -> Result<(), InstallError> {
    ask_systemctl(host, words).map(drop)
}

fn ask_systemctl(host: &Host, words: &[&str]) -> Result<String, InstallError> {
    let program = host.find("systemctl").unwrap_or_else(|| "/usr/bin/systemctl".into());
    host.run(&program, words)
}
