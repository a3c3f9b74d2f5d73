//! Ctrl-C and the like end a measurement at once, but not before everything it made is gone.

use std::thread;

use jaunt_tests::error::{At as _, Result};
use jaunt_tests::scratch;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Has this process, `program`, clean up when it is told to end.
pub fn clean_up(program: &'static str) -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).at("signal handlers")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("\n{program}: interrupted, cleaning up");
            scratch::abandon_all(128 + signal);
        }
    });
    Ok(())
}
