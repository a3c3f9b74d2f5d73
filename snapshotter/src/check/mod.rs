//! `check`: whether the state directory holds what its records promise, and repair of what does not.
//!
//! Without repair nothing is changed, and a daemon may run meanwhile: its records are asked of it, and only faults that
//! two looks agree on are told. Repair wants the daemon stopped. What it gives up, by [`Repair::GiveUp`] alone, it says.
//! Nothing is removed for being nobody's unless every record of a snapshot could be read.

mod command;
mod directories;
mod finding;
mod indexes;
mod layout;
mod records;
mod repair;
mod show;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use command::{CheckArgs, CheckCommandError, command};
pub use finding::{Action, Code, Finding, Level, Remedy};
pub use show::{json, text};

use crate::status::{self, StatusError};
use crate::supervisor::{DirectoryLock, LockError};
use layout::Layout;
use records::Records;

/// Between two looks at what a daemon is changing.
const PAUSE: Duration = Duration::from_millis(500);
/// Rounds of giving up: what stood on a snapshot that was given up goes with the next. containerd allows 127 layers.
const ROUNDS: usize = 160;

/// What is to be checked, and what may be done.
#[derive(Clone, Debug)]
pub struct Request {
    /// The state directory.
    pub root: PathBuf,
    /// Where mounts are.
    pub run_dir: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Whether all bytes are read and compared.
    pub deep: bool,
    /// What may be done about what is found.
    pub repair: Repair,
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// Nothing.
    No,
    /// That by which nothing is lost.
    Safe,
    /// That as well by which snapshots are forgotten that do not work any more.
    GiveUp,
}

/// What was found and done.
#[derive(Debug, Default)]
pub struct Report {
    /// Snapshots that were looked at.
    pub snapshots: usize,
    /// Whether a daemon ran meanwhile.
    pub live: bool,
    /// What was done about what was found.
    pub done: Vec<(Finding, String)>,
    /// What is left.
    pub findings: Vec<Finding>,
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No state.
    #[error("there is no state directory {root}", root = .0.display())]
    Absent(PathBuf),
    /// The directory cannot be read.
    #[error("cannot check {root}", root = .root.display())]
    Io {
        /// The directory.
        root: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Repair beside a daemon.
    #[error("stop the daemon before a repair")]
    Runs(#[source] LockError),
    /// A daemon has the state, and does not tell what is on record.
    #[error("a daemon uses {root}, and cannot be asked", root = .root.display())]
    Silent {
        /// The directory.
        root: PathBuf,
        /// Why not.
        #[source]
        source: StatusError,
    },
    /// The database does not let records be dropped.
    #[error(transparent)]
    Database(#[from] crate::metastore::Error),
}

impl Report {
    /// Whether nothing is left that was promised and does not hold.
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(|finding| finding.code.level() == Level::Fault)
    }
}

/// Checks, and repairs what it may.
///
/// # Errors
/// The directory cannot be read, or is in use.
pub async fn run(request: &Request) -> Result<Report, CheckError> {
    if !request.root.is_dir() {
        return Err(CheckError::Absent(request.root.clone()));
    }
    let layout = Layout { root: request.root.clone(), run_dir: request.run_dir.clone() };
    if request.repair == Repair::No {
        return match DirectoryLock::is_held(&layout.root) {
            true => beside_a_daemon(request, &layout).await,
            false => {
                let (snapshots, findings) = offline(&layout, request.deep)?;
                Ok(Report { snapshots, findings, ..Report::default() })
            }
        };
    }
    let _lock = DirectoryLock::acquire(&layout.root).map_err(CheckError::Runs)?;
    let mut done = Vec::new();
    for _ in 0..ROUNDS {
        let (_, findings) = offline(&layout, request.deep)?;
        let now = repair::apply(&layout, &findings, request.repair)?;
        let again = |(finding, _): &(Finding, String)| {
            done.iter().any(|(old, _): &(Finding, _)| old.is_same(finding))
        };
        let news = now.iter().any(|one| !again(one));
        done.extend(now);
        if !news {
            break;
        }
    }
    let (snapshots, findings) = offline(&layout, request.deep)?;
    Ok(Report { snapshots, live: false, done, findings })
}

fn offline(layout: &Layout, deep: bool) -> Result<(usize, Vec<Finding>), CheckError> {
    let mut findings = Vec::new();
    let Some(records) = Records::read(layout, &mut findings) else { return Ok((0, findings)) };
    look(layout, &records, deep, &mut findings)?;
    Ok((records.by_name.len(), findings))
}

async fn beside_a_daemon(request: &Request, layout: &Layout) -> Result<Report, CheckError> {
    let (snapshots, mut findings) = told(request, layout).await?;
    findings.retain(|finding| finding.code.level() == Level::Fault);
    if !findings.is_empty() {
        tokio::time::sleep(PAUSE).await;
        let (_, again) = told(request, layout).await?;
        findings.retain(|finding| again.iter().any(|other| finding.is_same(other)));
    }
    Ok(Report { snapshots, live: true, done: Vec::new(), findings })
}

async fn told(request: &Request, layout: &Layout) -> Result<(usize, Vec<Finding>), CheckError> {
    let silent = |source| CheckError::Silent { root: layout.root.clone(), source };
    let records = Records::told(&status::fetch(&request.socket).await.map_err(silent)?);
    let mut findings = Vec::new();
    look(layout, &records, request.deep, &mut findings)?;
    Ok((records.by_name.len(), findings))
}

fn look(
    layout: &Layout,
    records: &Records,
    deep: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), CheckError> {
    let io = |source| CheckError::Io { root: layout.root.clone(), source };
    records.check(findings);
    directories::check(layout, records, findings).map_err(io)?;
    indexes::check(layout, records, deep, findings).map_err(io)?;
    if !records.is_whole {
        findings.iter_mut().for_each(Finding::may_be_somebodys);
    }
    Ok(())
}
