//! The client against mock registries, misbehaving ones and Debian's `docker-registry`.
#![allow(clippy::unwrap_used, missing_docs, clippy::cast_possible_truncation)]

mod registry;
mod support;
