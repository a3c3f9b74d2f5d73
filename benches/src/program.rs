//! How a measuring program begins and ends.

use std::process::ExitCode;

use jaunt_tests::error::Result;
use jaunt_tests::host;

use crate::interrupt;

/// Does the work of the program `name`, or says why that cannot be done here: it needs root and what all whole-system tests drive, and
/// `tools` besides. What the work has made is gone when the program is, also when it is interrupted.
pub fn run(name: &'static str, tools: &[&str], work: impl FnOnce() -> Result<()>) -> ExitCode {
    let missing: Vec<&str> = tools.iter().copied().filter(|tool| host::find(tool).is_none()).collect();
    let missing = (!missing.is_empty()).then(|| format!("needs {}", missing.join(", ")));
    if let Some(obstacle) = host::obstacle().or(missing) {
        eprintln!("{name}: {obstacle}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = interrupt::clean_up(name).and_then(|()| work()) {
        eprintln!("{name}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
