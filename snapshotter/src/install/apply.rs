//! Doing it: our own files first and containerd's last, and out again the other way round.
//!
//! Each file is on record before it is replaced, so that what was begun can be ended, or undone. What a service does not
//! work with is put back as it was before this run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{self, Kind, Planned, RECORD, Record, Replaced, Written};
use super::host::Host;
use super::undo::{self, Step};
use super::{InstallError, Request, docker, loaded, plan, previous, services};
use crate::fallback::error_chain;

/// How long a daemon may take until it serves, unless that is said.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Where containerd is asked, unless its configuration says.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const NOT_RESTARTED: &str =
    "next: uninstall --drain --stop, or systemctl restart containerd: until then it pulls with Jaunt";

/// Installs. What was done, a line each.
pub async fn install(request: &Request) -> Result<Vec<String>, InstallError> {
    let host = Host::new(&request.host_root);
    let mut record = Record::read(&host)?;
    let was_due = record.restart_due;
    let plan = plan(request)?;
    if request.undrain && record.drained {
        record.drained = false;
        record.write(&host)?;
    }
    let (own, others): (Vec<_>, Vec<_>) = plan.files.into_iter().partition(|file| file.kind.is_own());
    let mut done = Vec::new();
    write(&host, &own, &mut record, &mut done)?;
    if request.start {
        start(&host, request, &mut record).await?;
        done.push("the daemon serves".to_owned());
    }
    let replaced = write(&host, &others, &mut record, &mut done)?;
    if request.start && record.restart_due {
        let socket = plan.containerd_socket.unwrap_or_else(|| PathBuf::from(CONTAINERD_SOCKET));
        let told = tell_containerd(&host, &socket, request.patience).await;
        settle(&host, &mut record, told, was_due, replaced)?;
        done.push("restarted containerd, which has the snapshotter".to_owned());
    }
    if own.is_empty() && others.is_empty() {
        done.push("all is installed already".to_owned());
    }
    done.extend(plan.notes);
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
    if stop {
        // On record until containerd runs without it.
        let replaced = others.iter().map(|step| step.replaced(&host)).collect::<Result<_, _>>()?;
        others.iter().try_for_each(|step| step.take(&host).map(drop))?;
        let (told, was_due) = (services::restart_containerd(&host), record.restart_due);
        settle(&host, &mut record, told, was_due, replaced)?;
    }
    take(others, &host, &mut record, &mut done)?;
    if stop {
        done.push("restarted containerd".to_owned());
    }
    if stop && has_unit {
        services::stop(&host)?;
        done.push("stopped the daemon".to_owned());
    }
    take(own, &host, &mut record, &mut done)?;
    previous::forget(&host, &mut record)?;
    if stop && has_unit {
        services::reload(&host)?;
    }
    Ok(done)
}

/// Has images pulled as before, and leaves the snapshotter to what runs on it.
pub fn drain(host_root: &Path, restart: bool) -> Result<Vec<String>, InstallError> {
    let host = Host::new(host_root);
    let mut record = installed(&host)?;
    let (was_due, was_drained) = (record.restart_due, record.drained);
    let drained = undo::drained(&host, &record)?;
    let (mut done, mut replaced) = (Vec::new(), Vec::new());
    record.drained = true;
    for (file, text) in drained {
        let Written { kind, path, .. } = &file.written;
        record.restart_due |= *kind == Kind::Containerd;
        record.put(file.written.clone());
        record.write(&host)?;
        files::replace(&host.at(path)?, text.as_bytes(), 0o644)?;
        done.push(format!("{}: pulls as before", path.display()));
        done.extend((*kind == Kind::Docker).then(|| docker::LEFT.to_owned()));
        replaced.push(file);
    }
    record.write(&host)?;
    match (record.restart_due, restart) {
        (false, _) => {}
        (true, false) => done.push(NOT_RESTARTED.to_owned()),
        (true, true) => {
            let told = services::restart_containerd(&host);
            record.drained = told.is_ok() || was_drained;
            settle(&host, &mut record, told, was_due, replaced)?;
            done.push("restarted containerd".to_owned());
        }
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

/// Writes what is planned, and tells what it took the place of, in that order.
fn write(
    host: &Host,
    planned: &[Planned],
    record: &mut Record,
    done: &mut Vec<String>,
) -> Result<Vec<Replaced>, InstallError> {
    let mut all = Vec::new();
    for file in planned {
        let Some(replaced) = files::intend(host, file, record)? else { continue };
        let written = &replaced.written;
        let kept = written.before.as_ref().map(|kept| format!(" (as it was: {})", kept.display()));
        let aside = replaced.aside.as_ref().map(|aside| format!("; as it was edited: {}", aside.display()));
        record.restart_due |= file.kind == Kind::Containerd;
        record.renewal_due |= matches!(file.kind, Kind::Program | Kind::Unit);
        record.put(written.clone());
        if file.kind.is_own() {
            previous::keep(host, file, &replaced, record)?;
        }
        record.write(host)?;
        files::replace(&host.at(&file.path)?, &file.content, file.mode)?;
        let told = [kept, aside].into_iter().flatten().collect::<String>();
        done.push(format!("wrote {}{told}", file.path.display()));
        all.push(replaced);
    }
    Ok(all)
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
        step.forget(host)?;
    }
    Ok(())
}

/// Has the daemon of this program and unit serve. Where it does not, what they took the place of is put back, be it this run
/// or an earlier one that has replaced it.
async fn start(host: &Host, request: &Request, record: &mut Record) -> Result<(), InstallError> {
    let serve = |renewed, patience| services::start(host, &request.socket, patience, renewed);
    let Err(why) = serve(record.renewal_due, request.patience).await else {
        record.renewal_due = false;
        return previous::forget(host, record);
    };
    if !previous::is_there(record) {
        return Err(why);
    }
    previous::put_back(host, record)?;
    // The one that does not serve has to be stopped first.
    let again = serve(true, request.patience.max(PATIENCE)).await.is_ok();
    record.renewal_due = !again;
    record.write(host)?;
    Err(InstallError::NotUpgraded { why: error_chain(&why), again })
}

/// Restarts containerd, and asks whether it has the snapshotter.
async fn tell_containerd(host: &Host, socket: &Path, patience: Duration) -> Result<(), InstallError> {
    services::restart_containerd(host)?;
    Ok(loaded::await_snapshotter(&host.at(socket)?, patience).await?)
}

/// Ends a restart of containerd that was `told` of what has been `replaced`: if it does not work with that, it gets what it
/// had. If it had not even been told of that, nobody knows that it works, and all of ours is taken out.
fn settle(
    host: &Host,
    record: &mut Record,
    told: Result<(), InstallError>,
    was_due: bool,
    mut replaced: Vec<Replaced>,
) -> Result<(), InstallError> {
    let Err(why) = told else {
        record.restart_due = false;
        return record.write(host);
    };
    if was_due {
        replaced.retain(|file| file.written.kind != Kind::Containerd);
        let step = undo::step_of(host, record, Kind::Containerd)?;
        take(step.into_iter().collect(), host, record, &mut Vec::new())?;
    }
    put_back(host, record, replaced)?;
    let again = services::restart_containerd(host).is_ok();
    record.restart_due = !again;
    record.write(host)?;
    Err(InstallError::PutBack { why: Box::new(why), again })
}

/// Undoes what was written.
fn put_back(host: &Host, record: &mut Record, replaced: Vec<Replaced>) -> Result<(), InstallError> {
    for file in replaced.into_iter().rev() {
        file.put_back(host, record)?;
        record.write(host)?;
    }
    Ok(())
}
