//! containerd's remote snapshotter: answers Prepare before the layer has arrived.
//!
//! The daemon is two processes of one binary. `serve` is the supervisor: it holds the socket and every
//! mount's descriptor. It starts the worker, which speaks the snapshots service (`service`), keeps
//! names, parents and readiness (`metastore`), decides what can be lazy (`resolve`), and mounts it
//! through [`lazy::LazyMounts`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod ahead;
pub mod boot;
pub mod check;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod daemon;
pub mod disk_usage;
mod examples;
pub mod fallback;
mod figures;
pub mod filters;
pub mod image;
pub mod index_store;
pub mod install;
mod introspection;
mod kernel;
pub mod labels;
pub mod lazy;
mod lease;
pub mod logging;
mod mapped;
pub mod metastore;
pub mod mount_command;
mod mountinfo;
pub mod mounts;
pub mod originals;
mod passthrough;
pub mod proto;
pub mod prune;
pub mod pull;
mod readiness;
pub mod resolve;
pub mod service;
pub mod snapshotter;
pub mod status;
pub mod supervisor;
mod trace_file;
pub mod trust;
mod unfit;
pub mod unix_channel;
pub mod upkeep;
