//! `jaunt-proxy` as its users run it, against Debian's `docker-registry` on loopback.
#![allow(clippy::unwrap_used)]

mod attach;
mod backfill;
mod boot;
mod certificates;
mod copies;
mod failures;
mod faults;
mod inspect;
mod interrupts;
mod layout;
mod meddler;
mod memory;
mod replace;
mod reuse;
mod sign;
mod successor;
mod support;
mod traces;
mod undo;
mod verify;
mod wild;
