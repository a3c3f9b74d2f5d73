//! Measurements: what the `demo` and the `bench-` programs are made of.
//!
//! They drive the same tools as the whole-system tests, through the same harness, and know Jaunt by its
//! command lines only: what they measure is what a user would see. (The criterion benches in `benches/` look
//! at single functions instead.)
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod blob_server;
pub mod cold;
pub mod conversion;
pub mod conversions;
pub mod delay;
pub mod files;
pub mod interrupt;
pub mod layerfs;
pub mod learning;
pub mod node;
pub mod nodes;
pub mod parts;
pub mod program;
pub mod progress;
pub mod report;
pub mod revision;
pub mod start;
pub mod stat;
pub mod subject;

pub use conversion::Conversion;
pub use progress::Progress;
pub use report::Report;
pub use start::{Start, Starts};
pub use stat::Stat;
pub use subject::Subject;
