//! What a [`Client`](crate::Client) can be told.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::credentials::GivenLogins;
use crate::files;
use crate::hosts::HostSettings;

/// Settings of a client. `Default` suits a node and a command line alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Registries spoken to over plain HTTP: `host:port`, or `host` for any port. Loopback is, unless it
    /// has TLS settings of its own.
    pub plain_http: BTreeSet<String>,
    /// Mirrors, certificates and other settings of registries.
    pub hosts: HostSettings,
    /// Files with credentials, as `docker login` and `podman login` write them (or directories that hold a
    /// `config.json`), read anew whenever a registry asks for credentials. The first that has some for a
    /// repository or its registry wins; a missing file is no error, and no file is anonymous access.
    pub auth_files: Vec<PathBuf>,
    /// Files with Kubernetes' image pull secrets (`.dockerconfigjson`), or directories with one or with a directory for
    /// each; asked before `auth_files`, the newest first.
    pub pull_secrets: Vec<PathBuf>,
    /// Logins that are handed over while the client works; asked before all files.
    pub given_logins: GivenLogins,
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
            hosts: HostSettings::default(),
            auth_files: standard_auth_files(files::home(), |name| std::env::var_os(name)),
            pull_secrets: Vec::new(),
            given_logins: GivenLogins::default(),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(20),
            user_agent: concat!("jaunt/", env!("CARGO_PKG_VERSION")).to_owned(),
            attempts: 4,
        }
    }
}

/// Where logins are kept: `$REGISTRY_AUTH_FILE`; Docker's `$DOCKER_CONFIG/config.json`, else
/// `~/.docker/config.json`; podman's `$XDG_RUNTIME_DIR/containers/auth.json`, else
/// `/run/containers/<uid>/auth.json`; and `$XDG_CONFIG_HOME/containers/auth.json`, else
/// `~/.config/containers/auth.json`.
fn standard_auth_files(home: Option<PathBuf>, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = |below: &str| home.as_ref().map(|home| home.join(below));
    let docker = path("DOCKER_CONFIG").or_else(|| home(".docker")).map(|path| path.join("config.json"));
    let runtime = path("XDG_RUNTIME_DIR").map(|path| path.join("containers"));
    // What /proc/self belongs to, we run as.
    let run =
        || Some(PathBuf::from(format!("/run/containers/{}", std::fs::metadata("/proc/self").ok()?.uid())));
    let podman = runtime.or_else(run).map(|path| path.join("auth.json"));
    let config =
        path("XDG_CONFIG_HOME").or_else(|| home(".config")).map(|path| path.join("containers/auth.json"));
    [path("REGISTRY_AUTH_FILE"), docker, podman, config].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_looked_for_where_their_tools_put_them() {
        let files = |home: Option<&str>, variables: &[(&str, &str)]| {
            let value =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            let files = standard_auth_files(home.map(PathBuf::from), value);
            let files = files.into_iter().map(|path| path.display().to_string());
            files.filter(|file| !file.starts_with("/run/containers/")).collect::<Vec<_>>()
        };
        assert_eq!(files(Some("/h"), &[]), ["/h/.docker/config.json", "/h/.config/containers/auth.json"]);
        let all = [
            ("REGISTRY_AUTH_FILE", "/r"),
            ("DOCKER_CONFIG", "/d"),
            ("XDG_RUNTIME_DIR", "/x"),
            ("XDG_CONFIG_HOME", "/c"),
        ];
        let want = ["/r", "/d/config.json", "/x/containers/auth.json", "/c/containers/auth.json"];
        assert_eq!(files(Some("/h"), &all), want);
        assert_eq!(files(None, &[("DOCKER_CONFIG", "")]), [""; 0]);
    }
}
