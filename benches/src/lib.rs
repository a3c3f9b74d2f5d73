//! Measurements: what the `demo` binary is made of.
//!
//! It drives the same tools as the whole-system tests, through the same harness, and knows Jaunt by its
//! command lines only: what it measures is what a user would see.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod conversion;
pub mod files;
pub mod interrupt;
pub mod progress;
pub mod report;
pub mod start;
pub mod stat;
pub mod subject;

pub use conversion::Conversion;
pub use progress::Progress;
pub use report::Report;
pub use start::{Start, Starts};
pub use stat::Stat;
pub use subject::Subject;
