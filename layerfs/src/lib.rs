//! A lazy file system over converted layers: spans are fetched, verified, decoded, kept, and served by
//! FUSE as one merged tree.
//!
//! The way of a read, top to bottom: [`fuse`] decodes the request; [`fs`] turns inode and offset into a layer
//! and a range of its tar; [`layer`], one for all mounts of the node ([`layers`]), answers from the [`store`] or has it
//! fetched (`fetch`) through its [`source`]s, once for all who ask ([`single_flight`]), and what lies around it as
//! well (`prefetch`); [`verify`] alone makes usable bytes of fetched ones. What nobody reads is brought by [`completion`],
//! which checks the whole.
//!
//! Invariant: layerfs knows nothing of containerd, snapshots or processes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod boot;
#[cfg(test)]
mod busy_tests;
#[cfg(test)]
mod chance;
pub mod class;
pub mod completion;
#[cfg(test)]
mod contention_tests;
mod decode;
pub mod erofs;
#[cfg(test)]
mod fault_crowd_tests;
#[cfg(test)]
mod fault_tests;
mod fetch;
pub mod fs;
pub mod fuse;
pub mod index_file;
pub mod layer;
pub mod layers;
pub mod metrics;
#[cfg(test)]
mod neighbour_tests;
pub mod observed;
#[cfg(test)]
mod original_tests;
#[cfg(test)]
mod original_turn_tests;
#[cfg(test)]
mod outage_tests;
#[cfg(test)]
mod pipeline_tests;
mod prefetch;
#[cfg(test)]
mod rangeless_tests;
mod read_error;
mod recent_failures;
#[cfg(test)]
mod shuttled;
pub mod single_flight;
#[cfg(test)]
mod single_flight_tests;
#[cfg(test)]
mod slow_registry;
#[cfg(test)]
mod small_disk;
pub mod source;
mod spans;
pub mod store;
mod sync;
#[cfg(test)]
mod testing;
pub mod trace;
mod trouble_log;
#[cfg(test)]
mod turn_tests;
pub mod verify;
