//! What reading has cost.

use std::sync::atomic::AtomicU64;

/// Counts over all layers that share them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests to sources.
    pub fetches: AtomicU64,
    /// Compressed bytes that arrived.
    pub fetched_bytes: AtomicU64,
    /// Spans that arrived with wrong bytes.
    pub wrong_spans: AtomicU64,
}
