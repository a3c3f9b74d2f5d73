//! What reading has cost: counted where it happens, told to whoever asks.
//!
//! What is counted here is what reaches this process: reads that the kernel answers from its page cache, or from a
//! file that it was handed, do not. Nothing has a label whose values a container or a registry could choose at will.

mod stalls;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

pub use stalls::{Stall, Stalls};

/// From half a millisecond, a round trip within a building, to beyond the time that a read may take.
const FETCH_BUCKETS: (f64, f64, u16) = (0.0005, 2.0, 17);
/// From a small file's frame to a large span on a slow machine.
const DECODE_BUCKETS: (f64, f64, u16) = (0.000_05, 2.0, 14);

/// Counts over all layers of a node, since the process started.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Reads that were answered with bytes.
    pub reads: Counter,
    /// Reads that waited for something to be fetched.
    pub misses: Counter,
    /// Reads that ended in an error.
    pub failed_reads: Counter,
    /// Bytes that reads were answered with.
    pub served_bytes: Counter,
    /// Requests to sources.
    pub fetches: Counter,
    /// Compressed bytes that arrived.
    pub fetched_bytes: Counter,
    /// Bytes that verified spans decoded to.
    pub decoded_bytes: Counter,
    /// Spans that arrived with wrong bytes.
    pub wrong_spans: Counter,
    /// Compressed bytes of boot packs that arrived.
    pub boot_fetched_bytes: Counter,
    /// Bytes that their verified frames decoded to.
    pub boot_content_bytes: Counter,
    /// Packs that could not be had, or were not what they should be.
    pub boot_failures: Counter,
    /// Reads that found in a pack what the layers did not have.
    pub boot_reads: Counter,
    /// Bytes of packs that the kernel was given before anybody asked for them.
    pub boot_pushed_bytes: Counter,
    /// How long requests took that gave all they were asked for, from their turn to the last byte.
    pub fetch_seconds: Histogram,
    /// How long a span took to be verified and decoded.
    pub decode_seconds: Histogram,
    /// How long reads that missed have waited.
    pub stall_seconds: Histogram,
    /// Requests that a source failed.
    pub source_failures: Family<Failure, Counter>,
}

/// A source's failure: whose, and of what kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Failure {
    /// The registry's host: there are as many as images have come from.
    pub host: String,
    /// What kind of trouble it was.
    pub trouble: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = |(start, factor, len)| Histogram::new(exponential_buckets(start, factor, len));
        Self {
            reads: Counter::default(),
            misses: Counter::default(),
            failed_reads: Counter::default(),
            served_bytes: Counter::default(),
            fetches: Counter::default(),
            fetched_bytes: Counter::default(),
            decoded_bytes: Counter::default(),
            wrong_spans: Counter::default(),
            boot_fetched_bytes: Counter::default(),
            boot_content_bytes: Counter::default(),
            boot_failures: Counter::default(),
            boot_reads: Counter::default(),
            boot_pushed_bytes: Counter::default(),
            fetch_seconds: histogram(FETCH_BUCKETS),
            decode_seconds: histogram(DECODE_BUCKETS),
            stall_seconds: histogram(FETCH_BUCKETS),
            source_failures: Family::default(),
        }
    }
}

impl Metrics {
    /// Has `registry` tell them.
    pub fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter("reads", "Reads that were answered with bytes", &self.reads);
        counter("misses", "Reads that waited for something to be fetched", &self.misses);
        counter("failed_reads", "Reads that ended in an error", &self.failed_reads);
        counter("served_bytes", "Bytes that reads were answered with", &self.served_bytes);
        counter("fetches", "Range requests to registries", &self.fetches);
        counter("fetched_bytes", "Compressed bytes that arrived", &self.fetched_bytes);
        counter("decoded_bytes", "Bytes that verified spans decoded to", &self.decoded_bytes);
        counter("wrong_spans", "Spans that arrived with wrong bytes", &self.wrong_spans);
        counter(
            "boot_fetched_bytes",
            "Compressed bytes of boot packs that arrived",
            &self.boot_fetched_bytes,
        );
        counter("boot_content_bytes", "Bytes that boot packs decoded to", &self.boot_content_bytes);
        counter("boot_failures", "Boot packs that were not, or not wholly, used", &self.boot_failures);
        counter("boot_reads", "Reads that found in a boot pack what layers did not have", &self.boot_reads);
        counter(
            "boot_pushed_bytes",
            "Bytes of boot packs that the kernel was given before anybody asked for them",
            &self.boot_pushed_bytes,
        );
        let mut seconds = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds("fetch", "Time of a range request, from its turn to its last byte", &self.fetch_seconds);
        seconds("decode", "Time to verify and decode a span", &self.decode_seconds);
        seconds("stall", "Time that a read waited because something was missing", &self.stall_seconds);
        let help = "Requests that a registry failed, by host and kind of trouble";
        registry.register("source_failures", help, self.source_failures.clone());
    }

    /// A read was answered.
    pub fn note_read(&self, bytes: usize) {
        self.reads.inc();
        self.served_bytes.inc_by(bytes as u64);
    }

    /// A read waited for something, and then was answered, or not.
    pub fn note_miss(&self, waited: Duration, bytes: Option<usize>) {
        self.misses.inc();
        self.stall_seconds.observe(waited.as_secs_f64());
        match bytes {
            Some(bytes) => self.note_read(bytes),
            None => {
                self.failed_reads.inc();
            }
        }
    }

    /// A source did not give what it was asked for.
    pub fn note_failure(&self, host: &str, trouble: &'static str) {
        self.source_failures.get_or_create(&Failure { host: host.to_owned(), trouble }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told_in_the_usual_text() {
        let (metrics, mut registry) = (Metrics::default(), Registry::with_prefix("jaunt"));
        metrics.register(&mut registry);
        metrics.note_read(100);
        metrics.note_miss(Duration::from_millis(3), Some(50));
        metrics.note_miss(Duration::from_secs(30), None);
        metrics.note_failure("r.example", "silent");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "jaunt_reads_total 2",
            "jaunt_misses_total 2",
            "jaunt_failed_reads_total 1",
            "jaunt_served_bytes_total 150",
            "jaunt_stall_seconds_count 2",
            "jaunt_stall_seconds_bucket{le=\"0.004\"} 1",
            "jaunt_source_failures_total{host=\"r.example\",trouble=\"silent\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "no {line} in\n{text}");
        }
    }
}
