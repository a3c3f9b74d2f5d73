//! `status --watch`: asked again and again.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{StatusError, fetch, json, line, text};

/// Where the cursor goes, and what is behind it goes away.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Shows the status every so often, until it cannot be had, or nobody looks any more: a screen on a terminal, else a line
/// each time, or an object in JSON.
///
/// # Errors
/// The daemon does not answer.
pub async fn watch(socket: &Path, every: Duration, as_json: bool) -> Result<(), StatusError> {
    let is_terminal = io::stdout().is_terminal();
    loop {
        let status = fetch(socket).await?;
        let shown = match (as_json, is_terminal) {
            (true, _) => format!("{}\n", json(&status)),
            (false, true) => format!("{REDRAW}{}", text(&status, SystemTime::now())),
            (false, false) => format!("{}\n", line(&status)),
        };
        let mut out = io::stdout().lock();
        if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        drop(out);
        tokio::time::sleep(every).await;
    }
}
