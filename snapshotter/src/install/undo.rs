//! `uninstall`: what was written is taken out again.

use std::path::Path;

use jaunt_formats::Digest;

use super::files::{self, Kind, RECORD, Record, Written};
use super::host::Host;
use super::{InstallError, containerd, docker};

/// Takes out everything, or says what is in the way before anything is changed. What was done, a line each.
pub(super) fn undo(host: &Host, force: bool) -> Result<Vec<String>, InstallError> {
    let mut record = Record::read(host)?;
    if record.files.is_empty() {
        return Err(InstallError::NotInstalled(host.at(Path::new(RECORD))));
    }
    let written = record.files.clone();
    let steps = written.iter().rev().map(|written| Step::of(host, written, force));
    let steps = steps.collect::<Result<Vec<_>, _>>()?;
    let mut done = Vec::new();
    for step in steps {
        done.push(step.take(host)?);
        record.files.pop();
        record.write(host)?;
    }
    Ok(done)
}

/// Gives pulling back to what did it before, and leaves the snapshotter to what runs on it.
pub(super) fn drain(host: &Host) -> Result<Vec<String>, InstallError> {
    let mut record = Record::read(host)?;
    if record.files.is_empty() {
        return Err(InstallError::NotInstalled(host.at(Path::new(RECORD))));
    }
    let mut done = Vec::new();
    for written in &mut record.files {
        let (now, before) = (text(host, &written.path)?, original(host, written)?);
        let changed = match written.kind {
            Kind::Containerd => containerd::drain(&now, &before).map_err(edit(written))?,
            Kind::Docker => docker::remove(&now, &before).map_err(json(written))?,
            Kind::Unit | Kind::Config | Kind::Program => continue,
        };
        if changed != now {
            files::replace(&host.at(&written.path), changed.as_bytes(), 0o644)?;
            // Nobody else has changed it: all of it can be put back later.
            if Digest::of(now.as_bytes()) == written.digest {
                written.digest = Digest::of(changed.as_bytes());
            }
            done.push(format!("{}: pulls as before", written.path.display()));
        }
    }
    record.write(host)?;
    Ok(done)
}

/// How one file is taken out.
enum Step<'w> {
    /// As it was, byte for byte.
    Restore(&'w Written),
    /// Ours taken out of what others have changed meanwhile.
    Merge(&'w Written, String),
    /// Already gone.
    Gone(&'w Written),
}

impl<'w> Step<'w> {
    fn of(host: &Host, written: &'w Written, force: bool) -> Result<Self, InstallError> {
        let Some(now) = files::read(&host.at(&written.path))? else { return Ok(Self::Gone(written)) };
        if Digest::of(&now) == written.digest {
            return Ok(Self::Restore(written));
        }
        let (now, before) = (String::from_utf8_lossy(&now).into_owned(), original(host, written)?);
        match written.kind {
            Kind::Containerd => {
                Ok(Self::Merge(written, containerd::remove(&now, &before).map_err(edit(written))?))
            }
            Kind::Docker => Ok(Self::Merge(written, docker::remove(&now, &before).map_err(json(written))?)),
            Kind::Unit | Kind::Config | Kind::Program if force => Ok(Self::Restore(written)),
            Kind::Unit | Kind::Config | Kind::Program => Err(InstallError::Changed(written.path.clone())),
        }
    }

    fn take(self, host: &Host) -> Result<String, InstallError> {
        match self {
            Self::Gone(written) => Ok(format!("{}: gone already", written.path.display())),
            Self::Merge(written, text) => {
                files::replace(&host.at(&written.path), text.as_bytes(), 0o644)?;
                let kept = written.before.as_ref().map(|kept| format!("; as it was: {}", kept.display()));
                let kept = kept.unwrap_or_default();
                Ok(format!(
                    "{}: our part removed, others have changed it since{kept}",
                    written.path.display()
                ))
            }
            Self::Restore(written) => {
                let place = host.at(&written.path);
                let Some(kept) = &written.before else {
                    files::remove(&place)?;
                    return Ok(format!("{}: removed", written.path.display()));
                };
                let kept = host.at(kept);
                let Some(bytes) = files::read(&kept)? else { return Err(InstallError::Lost(kept)) };
                files::replace(&place, &bytes, 0o644)?;
                files::remove(&kept)?;
                Ok(format!("{}: as it was before", written.path.display()))
            }
        }
    }
}

/// What was there before the first installation.
fn original(host: &Host, written: &Written) -> Result<String, InstallError> {
    match &written.before {
        None => Ok(String::new()),
        Some(kept) => text(host, kept),
    }
}

fn text(host: &Host, path: &Path) -> Result<String, InstallError> {
    let bytes = files::read(&host.at(path))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn edit(written: &Written) -> impl FnOnce(containerd::EditError) -> InstallError {
    let path = written.path.clone();
    move |source| InstallError::Edit { path, source }
}

fn json(written: &Written) -> impl FnOnce(serde_json::Error) -> InstallError {
    let path = written.path.clone();
    move |source| InstallError::Json { path, source }
}
