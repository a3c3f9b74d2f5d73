//! `install` and `uninstall`: the program, its unit and its configuration on a machine, and the entries by which
//! containerd, and Docker if that is asked for, use it.
//!
//! Nothing is written before all of it is known and containerd has read its new configuration. What was there is kept, and
//! comes back byte for byte where nobody has changed the file since.

mod apply;
pub mod command;
mod containerd;
mod docker;
mod files;
mod host;
mod ids;
mod loaded;
mod merged;
mod previous;
mod services;
mod tables;
mod undo;
mod usage;
mod version;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use apply::{drain, install, uninstall};
pub use loaded::NotLoaded;
pub use tables::EditError;
pub use version::Version;

use containerd::Wanted;
use files::{Kind, Planned, Record};
use host::Host;

const UNIT: &str = "/etc/systemd/system/jaunt-snapshotter.service";
const UNIT_TEXT: &str = include_str!("../../dist/systemd/jaunt-snapshotter.service");
const CONFIG_TEXT: &str = include_str!("../../dist/snapshotter.toml");
const DOCKER: &str = "/etc/docker/daemon.json";
/// What the unit's text has for the program.
const PROGRAM: &str = "/usr/local/bin/jaunt-snapshotter";

/// What is to be installed, and where.
#[derive(Clone, Debug)]
pub struct Request {
    /// Root directory of the machine.
    pub host_root: PathBuf,
    /// containerd's configuration, on the machine.
    pub containerd_config: PathBuf,
    /// containerd's program, if it is not where programs are.
    pub containerd: Option<PathBuf>,
    /// containerd's version, if it cannot be asked.
    pub version: Option<Version>,
    /// The snapshotter's socket.
    pub socket: PathBuf,
    /// Its state directory.
    pub root: PathBuf,
    /// Where the program goes.
    pub program: PathBuf,
    /// Whether CRI is to pull with it.
    pub cri: bool,
    /// Whether Docker is to.
    pub docker: bool,
    /// Whether program, unit and configuration are installed.
    pub unit: bool,
    /// Whether services are started.
    pub start: bool,
    /// How long the daemon may take until it serves.
    pub patience: Duration,
    /// Whether a node that was drained is to pull with it again.
    pub undrain: bool,
}

/// Why a machine was not changed, or not as asked.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No containerd.
    #[error("no containerd in {root}: name it with --containerd, or its version with --containerd-version", root = .0.display())]
    NoContainerd(PathBuf),
    /// It does not say which.
    #[error("cannot tell the version of containerd from {0:?}: name it with --containerd-version")]
    NoVersion(String),
    /// A file cannot be read or written.
    #[error("{path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// containerd's configuration cannot be changed.
    #[error("containerd's configuration {path}", path = .path.display())]
    Edit {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: EditError,
    },
    /// Docker's cannot.
    #[error("Docker's configuration {path}", path = .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// What was installed cannot be told.
    #[error("the record of what was installed, {path}", path = .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A program cannot be run.
    #[error("cannot run {command}")]
    Run {
        /// The command.
        command: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{command} failed: {said}")]
    Failed {
        /// The command.
        command: String,
        /// What it said.
        said: String,
    },
    /// Another file has the last word.
    #[error("containerd would not use it: another file overrules {what}, see imports in {path}; nothing was changed", path = .path.display())]
    Overruled {
        /// containerd's configuration.
        path: PathBuf,
        /// What is not as written.
        what: String,
    },
    /// Nothing to undo.
    #[error("nothing is installed: there is no {path}", path = .0.display())]
    NotInstalled(PathBuf),
    /// A file is not as it was written.
    #[error("{path} was changed since it was installed: nothing was removed (--force removes it)", path = .0.display())]
    Changed(PathBuf),
    /// What was kept is gone.
    #[error("{path}, which has what was there before, is gone", path = .0.display())]
    Lost(PathBuf),
    /// The daemon was started, and does not serve.
    #[error(
        "the daemon does not serve, and containerd was not told of it (journalctl -u jaunt-snapshotter): {0}"
    )]
    NotServing(String),
    /// A newer one was started in the place of one that ran, and does not serve.
    #[error(
        "the new daemon does not serve (journalctl -u jaunt-snapshotter): {why}; the old program and unit are back{again}",
        again = if *.again { ", and serve" } else { ", and do not serve either" }
    )]
    NotUpgraded {
        /// What was seen.
        why: String,
        /// Whether the old one serves.
        again: bool,
    },
    /// containerd was restarted, and has not got it.
    #[error(transparent)]
    NotLoaded(#[from] NotLoaded),
    /// containerd did not take its configuration.
    #[error("containerd does not work with its new configuration; the old one is back{again}", again = if *.again { ", and it runs" } else { ", and it does not start" })]
    PutBack {
        /// What it said.
        #[source]
        why: Box<InstallError>,
        /// Whether it runs with the old one.
        again: bool,
    },
    /// Nobody tells whether containers still use it.
    #[error("cannot tell whether snapshots are in use: {0} (--force does not ask)")]
    UseUnknown(String),
    /// Containers still use it.
    #[error(
        "{0} snapshots are still in use or kept by containerd: drain the node first (uninstall --drain), or --force"
    )]
    InUse(usize),
}

/// What would be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Path and content, containerd's last, what is there already left out.
    pub files: Vec<Planned>,
    /// What whoever asks has to know.
    pub notes: Vec<String>,
    /// Where containerd is asked, as its configuration says.
    pub containerd_socket: Option<PathBuf>,
}

/// What would be written.
pub fn plan(request: &Request) -> Result<Plan, InstallError> {
    let host = Host::new(&request.host_root);
    let mut notes = Vec::new();
    let pulls = request.undrain || !Record::read(&host)?.drained;
    if !pulls {
        notes.push(
            "this node was drained: pulls go elsewhere (--undrain gives them back to Jaunt)".to_owned(),
        );
    }
    let mut planned = if request.unit { own_files(request, &host)? } else { Vec::new() };
    if request.docker && pulls {
        let path = PathBuf::from(DOCKER);
        let content = docker::add(&text(&host, &path)?)
            .map_err(|source| InstallError::Json { path: path.clone(), source })?;
        planned.push(Planned { kind: Kind::Docker, path, content: content.into(), mode: 0o644 });
        notes.push(docker::CHANGED.to_owned());
    }
    let (file, containerd_socket) = containerd_file(request, request.cri && pulls, &host, &mut notes)?;
    planned.push(file);
    let mut changed = Vec::new();
    for file in planned {
        if files::read(&host.at(&file.path)?)?.as_ref() != Some(&file.content) {
            changed.push(file);
        }
    }
    Ok(Plan { files: changed, notes, containerd_socket })
}

fn containerd_file(
    request: &Request,
    cri: bool,
    host: &Host,
    notes: &mut Vec<String>,
) -> Result<(Planned, Option<PathBuf>), InstallError> {
    let path = &request.containerd_config;
    let edit = |source| InstallError::Edit { path: path.clone(), source };
    let program = request.containerd.clone().or_else(|| host.find("containerd"));
    let containerd = match (request.version, &program) {
        (Some(version), _) => version,
        (None, Some(program)) => {
            let said = host.run(program, &["--version"])?;
            Version::of_output(&said).ok_or(InstallError::NoVersion(said))?
        }
        (None, None) => return Err(InstallError::NoContainerd(request.host_root.clone())),
    };
    let (socket, root) = (request.socket.display().to_string(), request.root.display().to_string());
    let before = text(host, path)?;
    let maps_ids = containerd >= Version::TWO && ids::are_mapped(host, &request.root, notes)?;
    let wanted = Wanted { containerd, socket: &socket, root: &root, cri, maps_ids };
    let after = containerd::add(&before, &wanted).map_err(edit)?;
    if containerd::has_no_cri(&before) && cri {
        notes.push("CRI is among disabled_plugins: for Kubernetes, take it out".to_owned());
    }
    let mut socket = None;
    match program {
        Some(program) => socket = verify(host, &program, path, &after, &wanted)?,
        None => notes.push("no containerd to check its configuration with".to_owned()),
    }
    let (path, content) = (path.clone(), after.into());
    Ok((Planned { kind: Kind::Containerd, path, content, mode: 0o644 }, socket))
}

/// What containerd makes of a new configuration, read from beside the old one: what it imports counts as well.
fn dump(host: &Host, program: &Path, path: &Path, text: &str) -> Result<String, InstallError> {
    let new = path.with_extension("jaunt-new");
    let place = host.at(&new)?;
    files::replace(&place, text.as_bytes(), 0o600)?;
    let config = new.display().to_string();
    let dumped = host.run(program, &["--config", &config, "config", "dump"]);
    files::remove(&place)?;
    dumped
}

/// Has containerd read its new configuration, which is to say what is wanted. Its socket, as it says.
fn verify(
    host: &Host,
    program: &Path,
    path: &Path,
    text: &str,
    wanted: &Wanted<'_>,
) -> Result<Option<PathBuf>, InstallError> {
    let dumped = dump(host, program, path, text)?;
    let edit = |source| InstallError::Edit { path: path.to_owned(), source };
    let missing = merged::missing(&dumped, wanted).map_err(edit)?;
    if missing.is_empty() {
        return Ok(merged::address(&dumped));
    }
    Err(InstallError::Overruled { path: path.to_owned(), what: missing.join(" and ") })
}

fn own_files(request: &Request, host: &Host) -> Result<Vec<Planned>, InstallError> {
    let me = PathBuf::from("/proc/self/exe");
    let program = files::read(&me)?.unwrap_or_default();
    let unit = UNIT_TEXT.replace(PROGRAM, &request.program.display().to_string());
    let config = PathBuf::from(crate::config::DEFAULT_FILE);
    let mut own = vec![
        Planned { kind: Kind::Program, path: request.program.clone(), content: program, mode: 0o755 },
        Planned { kind: Kind::Unit, path: UNIT.into(), content: unit.into(), mode: 0o644 },
    ];
    // One that is there is somebody's.
    if !host.at(&config)?.exists() {
        own.push(Planned { kind: Kind::Config, path: config, content: CONFIG_TEXT.into(), mode: 0o644 });
    }
    Ok(own)
}

fn text(host: &Host, path: &Path) -> Result<String, InstallError> {
    let bytes = files::read(&host.at(path)?)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
