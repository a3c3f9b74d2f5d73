//! Lines for a person and JSON for a program, never mixed on standard output.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::error::Error;

pub struct Console {
    json: bool,
    /// None when standard error is no terminal.
    bars: Option<MultiProgress>,
    /// The bar of the whole, which stays below all others.
    overall: Mutex<Option<ProgressBar>>,
}

impl Console {
    pub fn new(json: bool) -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { json, bars, overall: Mutex::default() }
    }

    /// A bar of so many steps, if there are bars.
    pub fn bar(&self, template: &str, prefix: String, len: u64) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::new(len).with_prefix(prefix);
        let bar = style.map(|style| bar.clone().with_style(style)).unwrap_or(bar);
        let overall = self.overall.lock().unwrap_or_else(PoisonError::into_inner);
        Some(match overall.as_ref() {
            Some(overall) => bars.insert_before(overall, bar),
            None => bars.add(bar),
        })
    }

    /// The progress of the whole, which has so many parts.
    pub fn overall(&self, parts: usize, of: &str) -> Overall<'_> {
        let bar = self.bar("{prefix} {wide_bar} {pos}/{len}, {eta} left", of.to_owned(), parts as u64);
        if let Some(bar) = &bar {
            bar.tick();
        }
        self.overall.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&bar);
        Overall { console: self, bar }
    }

    /// A line for a person: on standard output, or on standard error when that is for JSON.
    pub fn line(&self, text: &str) {
        let write = || {
            // A closed pipe ends nothing: the work is worth finishing.
            let _ = if self.json {
                writeln!(std::io::stderr(), "{text}")
            } else {
                writeln!(std::io::stdout(), "{text}")
            };
        };
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// One of several errors, as `main` prints the last.
    pub fn error(&self, error: &impl std::fmt::Display) {
        let write = || eprintln!("jaunt-proxy: {error}");
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// The result for a program, if one asked for it.
    pub fn result(&self, document: &serde_json::Value) -> Result<(), Error> {
        if self.json {
            serde_json::to_writer_pretty(std::io::stdout(), document).map_err(std::io::Error::from)?;
            writeln!(std::io::stdout())?;
        }
        Ok(())
    }
}

/// The progress of a whole; it ends with this.
pub struct Overall<'c> {
    console: &'c Console,
    bar: Option<ProgressBar>,
}

impl Overall<'_> {
    /// One more part is done.
    pub fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }
}

impl Drop for Overall<'_> {
    fn drop(&mut self) {
        *self.console.overall.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A number of bytes, in decimal units as registries count.
pub fn bytes(len: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // for people
    let len = len as f64;
    match len {
        len if len >= 1e9 => format!("{:.2} GB", len / 1e9),
        len if len >= 1e6 => format!("{:.1} MB", len / 1e6),
        len if len >= 1e3 => format!("{:.1} kB", len / 1e3),
        len => format!("{len} B"),
    }
}

/// `part / whole`, 0 of nothing.
#[allow(clippy::cast_precision_loss)] // for people
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Megabytes a second.
#[allow(clippy::cast_precision_loss)] // for people
pub fn rate(len: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { len as f64 / 1e6 / seconds } else { 0.0 }
}

/// CPU seconds that this process has used, in all threads.
pub fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[allow(clippy::cast_precision_loss)] // for people
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        for (len, want) in
            [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_000_000, "2.0 MB"), (3_210_000_000, "3.21 GB")]
        {
            assert_eq!(bytes(len), want);
        }
        assert!(ratio(1, 0) == 0.0 && rate(1_000_000, 0.0) == 0.0 && cpu_seconds() > 0.0);
    }
}
