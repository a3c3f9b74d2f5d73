//! `status --watch`: asked again and again.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{StatusError, fetch, json, line, text};

/// Where the cursor goes, and what is behind it goes away.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Shows the status every so often, until nobody looks any more: a screen on a terminal, else a line each time, or an object in JSON.
/// A daemon that has answered is asked on when it no longer does, as while it is replaced; each time is told on standard error.
///
/// # Errors
/// The daemon does not answer the first time.
pub async fn watch(socket: &Path, every: Duration, as_json: bool) -> Result<(), StatusError> {
    let is_terminal = io::stdout().is_terminal();
    let mut status = Ok(fetch(socket).await?);
    loop {
        let told = match &status {
            Ok(status) => {
                let shown = match (as_json, is_terminal) {
                    (true, _) => format!("{}\n", json(status)),
                    (false, true) => format!("{REDRAW}{}", text(status, SystemTime::now())),
                    (false, false) => format!("{}\n", line(status)),
                };
                tell(io::stdout(), &shown)
            }
            Err(error) => tell(io::stderr(), &format!("{error}; asked again\n")),
        };
        if told.is_err() {
            return Ok(());
        }
        tokio::time::sleep(every).await;
        status = fetch(socket).await;
    }
}

fn tell(mut out: impl io::Write, what: &str) -> io::Result<()> {
    out.write_all(what.as_bytes())?;
    out.flush()
}
