//! The node binary: see `jaunt_snapshotter::cli`.

use std::process::ExitCode;

use clap::Parser as _;
use jaunt_snapshotter::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
