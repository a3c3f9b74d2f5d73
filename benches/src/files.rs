//! Results as files, each whole or not at all.

use std::fs;
use std::path::Path;

use jaunt_tests::error::{At as _, Error, Result};
use serde::Serialize;

/// Writes a file, and the directory it lies in if there is none.
pub fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).at(dir)?;
    }
    let fresh = file.with_added_extension("new");
    fs::write(&fresh, bytes).at(&fresh)?;
    fs::rename(&fresh, file).at(file)
}

/// Writes `value` as JSON that a person can read.
pub fn write_json(file: &Path, value: &impl Serialize) -> Result<()> {
    write(file, json(value)?.as_bytes())
}

/// The same as text.
pub fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Error::unexpected("a report as JSON", error.to_string()))
}
