//! Tells what is going on, with the time since the beginning: nothing here is silent for long.

use std::time::Instant;

/// Prints one line a step.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    to_stderr: bool,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { begun: Instant::now(), to_stderr: false }
    }

    /// The same for programs whose standard output is for other programs.
    pub fn to_stderr() -> Self {
        Self { to_stderr: true, ..Self::start() }
    }

    /// A step begins or a result is there.
    pub fn say(&self, step: &str) {
        let line = format!("[{:6.1} s] {step}", self.begun.elapsed().as_secs_f64());
        match self.to_stderr {
            true => eprintln!("{line}"),
            false => println!("{line}"),
        }
    }
}
