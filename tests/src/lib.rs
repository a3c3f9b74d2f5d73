//! The harness of the whole-system tests and of the demo.
//!
//! It starts real tools (containerd, runc, a registry, our own binaries) in a [`Scratch`] directory
//! and network namespace of their own, so that nothing on the machine is touched, and a separate
//! [reaper](scratch) removes all of it again however the process ends. Nothing here knows how Jaunt
//! works inside: it sees command lines, sockets and file systems, as a user does.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod authority;
pub mod buildah;
pub mod cold;
pub mod compare;
pub mod container;
pub mod containerd;
pub mod cri;
pub mod debian;
pub mod dice;
pub mod docker;
pub mod error;
pub mod host;
pub mod http;
pub mod image;
pub mod jaunt;
pub mod mounts;
pub mod network;
pub mod nginx;
pub mod node;
pub mod podman;
pub mod private;
pub mod process;
pub mod proto;
pub mod recipe;
pub mod registry;
pub mod scratch;
pub mod skopeo;
pub mod systemd;
pub mod usage;

pub use authority::Authority;
pub use container::{Container, Readiness};
pub use containerd::{Containerd, Snapshotter};
pub use dice::Dice;
pub use error::{Error, Result};
pub use jaunt::{Binaries, Jaunt};
pub use network::{Network, Pod};
pub use nginx::Nginx;
pub use node::Node;
pub use recipe::{Probe, Recipe};
pub use registry::Registry;
pub use scratch::Scratch;
pub use systemd::Systemd;
pub use usage::Usage;
