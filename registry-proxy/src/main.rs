//! `jaunt-proxy`: the registry side of Jaunt.
//!
//! `convert` makes an image lazily readable, `verify` checks a conversion bit by bit, `inspect`
//! shows one, or what a file is that one consists of. Exit codes: 0 done, 1 failed, 2 wrong usage, 128 and a
//! signal's number when that ended it.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![forbid(unsafe_code)]

mod artifact;
mod boot;
mod cli;
mod console;
mod content;
mod convert;
mod copy;
mod detach;
mod error;
mod examples;
mod file_error;
mod finding;
mod image;
mod inspect;
mod interrupt;
mod launch;
mod manifest;
mod optimize;
mod pipeline;
mod place;
mod referrers;
mod replace;
mod revert;
mod sign;
mod sign_command;
mod signed;
mod spill;
mod stream;
mod tag;
mod tries;
mod verify;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use jaunt_distribution::Client;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::error::Error;
use crate::place::PlaceError;

fn main() -> ExitCode {
    let cli = Cli::parse().checked().unwrap_or_else(|error| error.exit());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jaunt-proxy: {error}");
            match error {
                Error::Interrupted { signal } => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    if let Command::Completions { shell } = cli.command {
        return std::io::stdout().write_all(&cli::completions(shell)).map_err(Error::Print);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        let Some(connection) = cli.command.connection() else { return Ok(()) };
        let client = connection.clone().client().map_err(PlaceError::from)?;
        tokio::select! {
            done = command(client.clone(), cli.command) => done,
            signal = interrupt::asked_to_end() => {
                interrupt::clean_up(&client).await;
                Err(Error::Interrupted { signal })
            }
        }
    })
}

async fn command(client: Client, command: Command) -> Result<(), Error> {
    match command {
        Command::Convert(args) => convert::run(client, &args).await,
        Command::Verify(args) => verify::run(client, &args).await,
        Command::Sign(args) => sign_command::run(client, &args).await,
        Command::Revert(args) => revert::run(client, &args).await,
        Command::Optimize(args) => optimize::run(client, &args).await,
        Command::Detach(args) => detach::run(client, &args).await,
        Command::Copy(args) => copy::run(client, &args).await,
        Command::Inspect(args) => inspect::run(client, &args).await,
        // No registry has to do with it: printed before.
        Command::Completions { .. } => Ok(()),
    }
}
