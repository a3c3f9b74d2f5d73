//! Doing it: our own files first and containerd's last, and out again the other way round.
//!
//! Each file is on record before it is replaced, so that what was begun can be ended, or undone.

use std::path::Path;
use std::time::Duration;

use super::files::{self, Kind, Planned, RECORD, Record};
use super::host::Host;
use super::undo::{self, Step};
use super::{InstallError, Request, plan, services};

/// How long a daemon may take until it serves, unless that is said.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Installs. What was done, a line each.
pub async fn install(request: &Request) -> Result<Vec<String>, InstallError> {
    let host = Host::new(&request.host_root);
    let mut record = Record::read(&host)?;
    let (planned, notes) = plan(request)?;
    if request.undrain && record.drained {
        record.drained = false;
        record.write(&host)?;
    }
    let (own, others): (Vec<_>, Vec<_>) = planned.into_iter().partition(|file| file.kind.is_own());
    let mut done = Vec::new();
    write(&host, &own, &mut record, &mut done)?;
    if request.start {
        services::start(&host, &request.socket, request.patience).await?;
        done.push("the daemon serves".to_owned());
    }
    write(&host, &others, &mut record, &mut done)?;
    if request.start && record.restart_due {
        tell_containerd(&host, &mut record)?;
        done.push("restarted containerd".to_owned());
    }
    if own.is_empty() && others.is_empty() {
        done.push("all is installed already".to_owned());
    }
    done.extend(notes);
    Ok(done)
}

/// Takes everything out again.
pub fn uninstall(host_root: &Path, stop: bool, force: bool) -> Result<Vec<String>, InstallError> {
    let host = Host::new(host_root);
    let mut record = installed(&host)?;
    let has_unit = record.files.iter().any(|written| written.kind == Kind::Unit);
    // All that may be in the way is known before anything is changed.
    let (own, others): (Vec<_>, Vec<_>) =
        undo::steps(&host, &record, force)?.into_iter().partition(|step| step.kind().is_own());
    let mut done = Vec::new();
    take(others, &host, &mut record, &mut done)?;
    if stop {
        services::restart_containerd(&host)?;
        done.push("restarted containerd".to_owned());
    }
    if stop && has_unit {
        services::stop(&host)?;
        done.push("stopped the daemon".to_owned());
    }
    take(own, &host, &mut record, &mut done)?;
    if stop && has_unit {
        services::reload(&host)?;
    }
    Ok(done)
}

/// Has images pulled as before, and leaves the snapshotter to what runs on it.
pub fn drain(host_root: &Path, restart: bool) -> Result<Vec<String>, InstallError> {
    let host = Host::new(host_root);
    let mut record = installed(&host)?;
    let mut done = undo::drain(&host, &mut record)?;
    if restart && !done.is_empty() {
        services::restart_containerd(&host)?;
        done.push("restarted containerd".to_owned());
    }
    Ok(done)
}

fn installed(host: &Host) -> Result<Record, InstallError> {
    let record = Record::read(host)?;
    if record.files.is_empty() {
        return Err(InstallError::NotInstalled(host.at(Path::new(RECORD))?));
    }
    Ok(record)
}

fn write(
    host: &Host,
    planned: &[Planned],
    record: &mut Record,
    done: &mut Vec<String>,
) -> Result<(), InstallError> {
    for file in planned {
        let Some(written) = files::intend(host, file, record)? else { continue };
        let kept = written.before.as_ref().map(|kept| format!(" (as it was: {})", kept.display()));
        record.restart_due |= file.kind == Kind::Containerd;
        record.put(written);
        record.write(host)?;
        files::replace(&host.at(&file.path)?, &file.content, file.mode)?;
        done.push(format!("wrote {}{}", file.path.display(), kept.unwrap_or_default()));
    }
    Ok(())
}

fn take(
    steps: Vec<Step>,
    host: &Host,
    record: &mut Record,
    done: &mut Vec<String>,
) -> Result<(), InstallError> {
    for step in steps {
        let path = step.path().to_owned();
        done.push(step.take(host)?);
        record.files.retain(|written| written.path != path);
        record.write(host)?;
    }
    Ok(())
}

/// Restarts containerd; one that does not come back gets its old configuration again.
fn tell_containerd(host: &Host, record: &mut Record) -> Result<(), InstallError> {
    let Err(why) = services::restart_containerd(host) else {
        record.restart_due = false;
        return record.write(host);
    };
    let steps = undo::steps(host, record, false)?;
    let theirs = steps.into_iter().filter(|step| step.kind() == Kind::Containerd).collect();
    take(theirs, host, record, &mut Vec::new())?;
    let again = services::restart_containerd(host).is_ok();
    Err(InstallError::PutBack { why: Box::new(why), again })
}
