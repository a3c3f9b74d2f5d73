//! What is known about a registry before it is asked: which hosts serve it, and how they are trusted.
//!
//! A [`Client`](crate::Client) is told by values ([`HostSettings::registries`], [`HostSettings::tls`])
//! and by directories, which are read when a registry is first asked for something and again every half
//! minute, so that renewed certificates and changed mirrors count without a restart. Settings are scoped
//! strictly: an error in those of one registry fails calls to that registry only.

mod dial;
mod directory;
mod error;
mod hosts_toml;
mod name;
mod pem;
mod route;
mod router;
mod settings;
mod standing;

pub(crate) use dial::Dial;
pub use error::HostsError;
pub use hosts_toml::HostsTomlError;
pub(crate) use name::{host_of, is_loopback};
pub(crate) use route::Route;
pub(crate) use router::{Router, Routes};
pub use settings::{
    ApiRoot, Capabilities, ClientCertificate, Host, HostSettings, RegistryHosts, TlsSettings,
};
