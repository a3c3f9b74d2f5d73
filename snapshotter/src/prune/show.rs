//! What was pruned, as a person or a program reads it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Pruned;

/// A line a layer, and the sum.
pub fn text(pruned: &Pruned, dry_run: bool) -> String {
    let mut out = String::new();
    for (path, bytes) in &pruned.layers {
        let _ = writeln!(out, "{:>10}  {}", megabytes(*bytes), path.display());
    }
    let verb = if dry_run { "would free" } else { "freed" };
    let _ = writeln!(
        out,
        "{verb} {} in {} layers; {} in use",
        megabytes(pruned.freed()),
        pruned.layers.len(),
        megabytes(pruned.in_use)
    );
    out
}

/// One JSON object.
pub fn json(pruned: &Pruned, dry_run: bool) -> Value {
    let layer = |(path, bytes): &(std::path::PathBuf, u64)| json!({"path": path, "bytes": bytes});
    json!({
        "dry_run": dry_run,
        "freed_bytes": pruned.freed(),
        "in_use_bytes": pruned.in_use,
        "layers": pruned.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
