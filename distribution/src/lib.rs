//! A client of the OCI distribution API: manifests, blobs, ranges, referrers and pushes.
//!
//! One [`Client`] serves every registry. It sits on the path of a container's cold start, so it makes
//! no request that is not needed: connections are kept, a token is fetched only when a registry asks
//! for one and then shared, and the signed URL behind a blob's redirect is used again until refused.
//!
//! Invariants: an `Authorization` header never reaches another origin than the one it was made for;
//! every body is read under a limit; no secret is printed, neither in an error nor by `Debug`.
//! Manifests and whole blobs are verified; ranges and streams are not, and their methods say so.
//!
//! Spec: OCI distribution-spec 1.1; token authentication as the distribution project documents it.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![forbid(unsafe_code)]

mod asked;
mod auth;
mod blob;
mod client;
mod config;
mod credentials;
mod ending;
mod error;
mod failover;
mod files;
mod hosts;
mod http;
mod in_repository;
pub mod limits;
mod manifest;
mod page;
mod push;
mod referrer_list;
mod referrers;
mod repository;
mod request;
pub mod signatures;
mod tags;
mod target;
mod turn;
mod upload;
mod whereabouts;

pub use auth::AuthError;
pub use blob::BlobStream;
pub use client::Client;
pub use config::ClientConfig;
pub use credentials::{Credential, Credentials, CredentialsError, GivenLogin, GivenLogins, Secret};
pub use error::Error;
pub use hosts::{
    ApiRoot, Capabilities, ClientCertificate, Host, HostSettings, HostsError, HostsTomlError, RegistryHosts,
    TlsSettings,
};
pub use in_repository::InRepository;
pub use manifest::{Manifest, ManifestState};
pub use push::{Precondition, PushedManifest, TagMove};
pub use referrer_list::{ReferrerLists, list_referrer, unlist_referrer};
pub use referrers::referrers_tag;
pub use repository::Repository;
pub use target::{Object, Target};
pub use upload::BlobUpload;
