//! The command line of `check`.

use std::path::PathBuf;

use clap::Args;

use super::{CheckError, Repair, Report, Request, run};
use crate::config::{ConfigError, Settings};

/// What `check` can be asked.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration file [default: /etc/jaunt/snapshotter.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where state is kept [default: as configured]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where mounts and the socket are [default: as configured]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The daemon's socket [default: as configured]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Read all bytes that are kept and compare them with their checksums
    #[arg(long)]
    deep: bool,
    /// Put right what can be without a loss: the daemon must not run
    #[arg(long)]
    repair: bool,
    /// Repair, and forget snapshots that do not work any more: their images must be removed and pulled again
    #[arg(long)]
    give_up: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why `check` did not come to a result.
#[derive(Debug, thiserror::Error)]
pub enum CheckCommandError {
    /// No configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No check.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Checks and prints what is found.
///
/// # Errors
/// Nothing could be checked.
pub async fn command(args: CheckArgs) -> Result<Report, CheckCommandError> {
    let flags =
        Settings { root: args.root, run_dir: args.run_dir, socket: args.socket, ..Settings::default() };
    let config = Settings::read(args.config.as_deref())?.with_flags(flags).complete();
    let repair = match (args.repair, args.give_up) {
        (_, true) => Repair::GiveUp,
        (true, false) => Repair::Safe,
        (false, false) => Repair::No,
    };
    let (root, run_dir, socket) = (config.root, config.run_dir, config.socket);
    let report = run(&Request { root, run_dir, socket, deep: args.deep, repair }).await?;
    match args.json {
        true => println!("{}", super::json(&report)),
        false => print!("{}", super::text(&report)),
    }
    Ok(report)
}
