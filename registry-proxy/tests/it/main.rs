//! `jaunt-proxy` as its users run it, against Debian's `docker-registry` on loopback.
#![allow(clippy::unwrap_used)]

mod attach;
mod failures;
mod layout;
mod replace;
mod support;
mod wild;
