//! The client against mock registries, misbehaving ones and Debian's `docker-registry`.
#![allow(clippy::unwrap_used, missing_docs, clippy::cast_possible_truncation)]

mod auth;
mod certificates;
mod errors;
mod given_logins;
mod http2;
mod http2_faults;
mod logins;
mod manifests;
mod mirrors;
mod network;
mod ranges;
mod redirects;
mod referrers;
mod registry;
mod retries;
mod signatures;
mod support;
mod tags;
mod tls;
mod trust;
mod uploads;
