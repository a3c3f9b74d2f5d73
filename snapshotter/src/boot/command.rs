//! `trace`: takes out what the daemon has noted of starts.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use jaunt_distribution::Repository;
use jaunt_formats::boot::{MAX_TRACE_LEN, Trace, TraceError};
use jaunt_formats::{Reference, error_chain};

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
/// There is no such trace, or it cannot be written.
pub fn run(args: &TraceArgs, root: &Path) -> Result<(), TraceCommandError> {
    let directory = directory(root);
    let paths = list(&directory).map_err(|source| TraceCommandError::File { path: directory, source })?;
    let mut kept = paths.iter().filter_map(|path| readable(path));
    if args.what == "ls" {
        return kept.try_for_each(|(path, _, trace)| tell(path, &trace));
    }
    let wanted = Repository::from(&args.what.parse::<Reference>()?);
    for (_, text, trace) in kept.rev() {
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

/// A file's text and trace; one that is damaged, or gone since, is told of and stands in no other's way.
fn readable(path: &Path) -> Option<(&Path, Vec<u8>, Trace)> {
    match read(path) {
        Ok((text, trace)) => Some((path, text, trace)),
        Err(error) => {
            eprintln!("jaunt-snapshotter: {}", error_chain(&error));
            None
        }
    }
}

fn read(path: &Path) -> Result<(Vec<u8>, Trace), TraceCommandError> {
    let failed = |source| TraceCommandError::File { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_TRACE_LEN as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    let wrong = |source| TraceCommandError::Trace { path: path.to_owned(), source };
    let trace = Trace::parse(&text).map_err(wrong)?;
    Ok((text, trace))
}

fn tell(path: &Path, trace: &Trace) -> Result<(), TraceCommandError> {
    let Trace { head, touches } = trace;
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
