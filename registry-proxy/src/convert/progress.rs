//! What a person sees of a layer under way: a bar on a terminal, a line when it is done.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::console::Console;

/// One layer's progress. Counts are bytes of the original blob.
pub struct LayerProgress {
    bar: Option<ProgressBar>,
    started: Instant,
}

impl LayerProgress {
    pub fn start(console: &Console, name: String, len: u64) -> Self {
        let template = "{prefix} {wide_bar} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12}";
        let bar = console.bar(template, name, len);
        Self { bar, started: Instant::now() }
    }

    /// Nothing has arrived yet, or not any more.
    pub fn restart(&self) {
        if let Some(bar) = &self.bar {
            bar.reset();
        }
    }

    /// Bytes of the original blob that have arrived.
    pub fn add_original(&self, len: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(len);
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends the bar, if there is one.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
