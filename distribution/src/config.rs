//! What a [`Client`](crate::Client) can be told.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a client. `Default` suits a node and a command line alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Registries spoken to over plain HTTP: `host:port`, or `host` for any port. Loopback always is.
    pub plain_http: BTreeSet<String>,
    /// Docker's configuration file (or the directory that holds `config.json`), read anew whenever a
    /// registry asks for credentials. `None` is anonymous access; a missing file is no error.
    pub docker_config: Option<PathBuf>,
    /// Longest wait for a TCP and TLS connection.
    pub connect_timeout: Duration,
    /// Longest silence: from a request to its answer, and between two pieces of a body; also the longest
    /// that a body may come in slower than [`SLOWEST_DOWNLOAD`](crate::limits::SLOWEST_DOWNLOAD). What a
    /// whole call may take is for [`Client::within`](crate::Client::within).
    pub read_timeout: Duration,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// How often one request is tried before its failure is reported. At least 1.
    pub attempts: u32,
}

impl Default for ClientConfig {
    /// A silent registry is reported after `attempts * read_timeout`, 80 s, and one that refuses
    /// connections after about a second of retries.
    fn default() -> Self {
        Self {
            plain_http: BTreeSet::new(),
            docker_config: standard_docker_config(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(20),
            user_agent: concat!("jaunt/", env!("CARGO_PKG_VERSION")).to_owned(),
            attempts: 4,
        }
    }
}

/// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`, as Docker looks for it.
fn standard_docker_config() -> Option<PathBuf> {
    let directory = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))?;
    Some(directory.join("config.json"))
}
