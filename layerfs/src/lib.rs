//! Spans fetched, verified, decoded, kept, and served by FUSE as one merged file system.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod fuse;
