//! `uninstall`: what was written is taken out again.

use std::path::Path;

use jaunt_formats::Digest;

use super::files::{self, EDITED, Kind, Record, Replaced, Written};
use super::host::Host;
use super::{EditError, InstallError, containerd, docker};

/// How everything is taken out, what others have something in first; or what is in the way.
pub(super) fn steps(host: &Host, record: &Record, force: bool) -> Result<Vec<Step>, InstallError> {
    let mut written = record.files.clone();
    written.sort_by_key(|written| written.kind);
    written.into_iter().map(|written| Step::of(host, written, force)).collect()
}

/// How one of them is.
pub(super) fn step_of(host: &Host, record: &Record, kind: Kind) -> Result<Option<Step>, InstallError> {
    let written = record.files.iter().find(|written| written.kind == kind);
    written.map(|written| Step::of(host, written.clone(), false)).transpose()
}

/// What is to be written, so that pulls go to what did them before, and the snapshotter stays for what runs on it.
pub(super) fn drained(host: &Host, record: &Record) -> Result<Vec<(Replaced, String)>, InstallError> {
    let mut drained = Vec::new();
    for earlier in &record.files {
        let (now, before) = (text(host, &earlier.path)?, original(host, earlier)?);
        let changed = match earlier.kind {
            Kind::Containerd => containerd::drain(&now, &before).map_err(edit(earlier))?,
            Kind::Docker => docker::remove(&now, &before).map_err(json(earlier))?,
            Kind::Unit | Kind::Config | Kind::Program => continue,
        };
        if changed == now {
            continue;
        }
        check(host, earlier, &changed)?;
        let mut written = earlier.clone();
        // Nobody else has changed it: all of it can be put back later.
        if Digest::of(now.as_bytes()) == written.digest {
            written.digest = Digest::of(changed.as_bytes());
        }
        let (earlier, bytes) = (Some(earlier.clone()), Some(now.into_bytes()));
        drained.push((Replaced { written, earlier, aside: None, bytes }, changed));
    }
    Ok(drained)
}

/// Has containerd, where there is one, read a file that it did not have before.
fn check(host: &Host, written: &Written, text: &str) -> Result<(), InstallError> {
    match host.find("containerd") {
        Some(program) if written.kind == Kind::Containerd => {
            super::dump(host, &program, &written.path, text).map(drop)
        }
        _ => Ok(()),
    }
}

/// How one file is taken out.
pub(super) enum Step {
    /// As it was, byte for byte.
    Restore(Written),
    /// Ours taken out of what others have changed meanwhile.
    Merge(Written, String),
    /// Moved to another name, as somebody has put work into it.
    Aside(Written),
    /// Already gone.
    Gone(Written),
}

impl Step {
    fn of(host: &Host, written: Written, force: bool) -> Result<Self, InstallError> {
        let Some(now) = files::read(&host.at(&written.path)?)? else { return Ok(Self::Gone(written)) };
        let digest = Digest::of(&now);
        // One that was cut short before the file was replaced has left what was there.
        let is_as_before = || -> Result<bool, InstallError> {
            match &written.before {
                Some(kept) => Ok(files::read(&host.at(kept)?)?.as_ref() == Some(&now)),
                None => Ok(written.kind.is_own() && written.replaced == Some(digest)),
            }
        };
        if (digest == written.digest && !written.edited) || is_as_before()? {
            return Ok(Self::Restore(written));
        }
        let (now, before) = (String::from_utf8_lossy(&now).into_owned(), original(host, &written)?);
        match written.kind {
            Kind::Containerd => {
                let text = containerd::remove(&now, &before).map_err(edit(&written))?;
                if !force {
                    check(host, &written, &text)?;
                }
                Ok(Self::Merge(written, text))
            }
            Kind::Docker => {
                let text = docker::remove(&now, &before).map_err(json(&written))?;
                Ok(Self::Merge(written, text))
            }
            Kind::Unit | Kind::Program if digest == written.digest => Ok(Self::Restore(written)),
            Kind::Config => Ok(Self::Aside(written)),
            Kind::Unit if force => Ok(Self::Aside(written)),
            Kind::Program if force => Ok(Self::Restore(written)),
            Kind::Unit | Kind::Program => Err(InstallError::Changed(written.path)),
        }
    }

    /// What it takes out.
    pub fn kind(&self) -> Kind {
        self.written().kind
    }

    /// Where that is, on the machine.
    pub fn path(&self) -> &Path {
        &self.written().path
    }

    const fn written(&self) -> &Written {
        let (Self::Restore(written) | Self::Merge(written, _) | Self::Aside(written) | Self::Gone(written)) =
            self;
        written
    }

    /// What is there until it is taken out.
    pub fn replaced(&self, host: &Host) -> Result<Replaced, InstallError> {
        let written = self.written().clone();
        let bytes = files::read(&host.at(&written.path)?)?;
        Ok(Replaced { earlier: Some(written.clone()), written, aside: None, bytes })
    }

    /// Takes it out; again does no harm. What was done, in words.
    pub fn take(&self, host: &Host) -> Result<String, InstallError> {
        let place = host.at(self.path())?;
        let path = self.path().display().to_string();
        match self {
            Self::Gone(_) => Ok(format!("{path}: gone already")),
            Self::Merge(written, text) => {
                files::replace(&place, text.as_bytes(), 0o644)?;
                let kept = written.before.as_ref().map(|kept| format!("; as it was: {}", kept.display()));
                let kept = kept.unwrap_or_default();
                Ok(format!("{path}: our part removed, others have changed it since{kept}"))
            }
            Self::Aside(written) => {
                let aside = files::move_aside(host, &written.path, EDITED)?;
                if written.before.is_some() {
                    restore(host, written)?;
                }
                Ok(format!("{path}: was edited, and is kept as {}", aside.display()))
            }
            Self::Restore(written) => restore(host, written),
        }
    }

    /// Removes what was kept of it, once it is in its place and off the record.
    pub fn forget(&self, host: &Host) -> Result<(), InstallError> {
        match self {
            Self::Restore(written) | Self::Aside(written) => {
                written.before.as_ref().map_or(Ok(()), |kept| files::remove(&host.at(kept)?))
            }
            Self::Merge(..) | Self::Gone(_) => Ok(()),
        }
    }
}

fn restore(host: &Host, written: &Written) -> Result<String, InstallError> {
    let place = host.at(&written.path)?;
    let Some(kept) = &written.before else {
        files::remove(&place)?;
        return Ok(format!("{}: removed", written.path.display()));
    };
    let kept = host.at(kept)?;
    let Some(bytes) = files::read(&kept)? else { return Err(InstallError::Lost(kept)) };
    files::replace(&place, &bytes, 0o644)?;
    Ok(format!("{}: as it was before", written.path.display()))
}

/// What was there before the first installation.
fn original(host: &Host, written: &Written) -> Result<String, InstallError> {
    match &written.before {
        None => Ok(String::new()),
        Some(kept) => text(host, kept),
    }
}

fn text(host: &Host, path: &Path) -> Result<String, InstallError> {
    let bytes = files::read(&host.at(path)?)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn edit(written: &Written) -> impl FnOnce(EditError) -> InstallError {
    let path = written.path.clone();
    move |source| InstallError::Edit { path, source }
}

fn json(written: &Written) -> impl FnOnce(serde_json::Error) -> InstallError {
    let path = written.path.clone();
    move |source| InstallError::Json { path, source }
}
