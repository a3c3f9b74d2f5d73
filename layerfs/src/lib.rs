//! A lazy file system over converted layers: spans are fetched, verified, decoded, kept, and served by
//! FUSE as one merged tree.
//!
//! The way of a read, top to bottom: [`fuse`] decodes the request; [`fs`] turns inode and offset into a layer
//! and a range of its tar; [`layer`], one for all mounts of the node ([`layers`]), answers from the [`store`] or fetches through a [`source`], once for all
//! who ask ([`single_flight`]), and what lies around it as well ([`prefetch`]); [`verify`] alone makes usable bytes of fetched ones.
//!
//! Invariant: layerfs knows nothing of containerd, snapshots or processes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

mod decode;
pub mod fs;
pub mod fuse;
pub mod index_file;
pub mod layer;
pub mod layers;
pub mod prefetch;
mod recent_failures;
pub mod single_flight;
pub mod source;
pub mod store;
pub mod verify;
