//! Tells what is going on, with the time since the beginning: nothing here is silent for long.

use std::time::Instant;

/// Prints one line a step.
#[derive(Debug)]
pub struct Progress(Instant);

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// A step begins or a result is there.
    pub fn say(&self, step: &str) {
        println!("[{:6.1} s] {step}", self.0.elapsed().as_secs_f64());
    }
}
