//! `trace`: takes out what the daemon has noted of starts.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use jaunt_distribution::Repository;
use jaunt_formats::Reference;
use jaunt_formats::boot::{Trace, TraceError};

use super::traces::{directory, list};

/// What `trace` is asked for.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// The image whose latest trace is wanted, or `ls` for a list of all
    #[arg(value_name = "REF|ls")]
    what: String,
    /// Where to write it [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The daemon's state [default: as configured]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceCommandError {
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file is no trace.
    #[error("{}", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TraceError,
    },
    /// The word is no reference.
    #[error("neither `ls` nor an image")]
    Reference(#[from] jaunt_formats::ReferenceError),
    /// No start of the image was traced.
    #[error("no start of {0} has been traced here")]
    None(Repository),
    /// Standard output is closed.
    #[error("cannot write")]
    Output(#[source] io::Error),
}

/// Runs the command on the daemon's state in `root`.
///
/// # Errors
/// There is no such trace, or it cannot be read or written.
pub fn run(args: &TraceArgs, root: &Path) -> Result<(), TraceCommandError> {
    let directory = directory(root);
    let paths = list(&directory).map_err(|source| TraceCommandError::File { path: directory, source })?;
    if args.what == "ls" {
        return paths.iter().try_for_each(|path| tell(path));
    }
    let wanted = Repository::from(&args.what.parse::<Reference>()?);
    for path in paths.iter().rev() {
        let (text, trace) = read(path)?;
        if trace.head.image == wanted.to_string() {
            return match &args.output {
                Some(to) => std::fs::write(to, text)
                    .map_err(|source| TraceCommandError::File { path: to.clone(), source }),
                None => io::stdout().write_all(&text).map_err(TraceCommandError::Output),
            };
        }
    }
    Err(TraceCommandError::None(wanted))
}

fn read(path: &Path) -> Result<(Vec<u8>, Trace), TraceCommandError> {
    let path = path.to_owned();
    let text =
        std::fs::read(&path).map_err(|source| TraceCommandError::File { path: path.clone(), source })?;
    let trace = Trace::parse(&text).map_err(|source| TraceCommandError::Trace { path, source })?;
    Ok((text, trace))
}

fn tell(path: &Path) -> Result<(), TraceCommandError> {
    let (_, Trace { head, touches }) = read(path)?;
    let bytes: u64 = touches.iter().map(|touch| touch.len).fold(0, u64::saturating_add);
    let files: std::collections::HashSet<&str> = touches.iter().map(|touch| touch.path.as_str()).collect();
    let end = if head.settled { "came to rest" } else { "time was up" };
    let line = format!(
        "{}  {}  {} files, {bytes} bytes in {} ms, {end}\n",
        path.display(),
        head.image,
        files.len(),
        head.ready_ms
    );
    io::stdout().write_all(line.as_bytes()).map_err(TraceCommandError::Output)
}
