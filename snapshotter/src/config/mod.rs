//! The daemon's settings: defaults, then a TOML file, then flags.
//!
//! An unknown key is an error that names the key and the file: a misspelt setting must not be a setting
//! silently left at its default.

mod boot;
mod completion;
mod credentials;
mod kernel;
mod metrics;
mod originals;
mod registries;
mod store;
mod trace;
mod trust;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use boot::{BootConfig, RepositoryPrefix};
pub use completion::CompletionConfig;
pub use credentials::CredentialsConfig;
pub use kernel::KernelFeature;
pub use metrics::{MetricsAddress, MetricsConfig};
pub use originals::OriginalsPolicy;
pub use registries::{ClientFiles, RegistriesConfig, RegistryFlags};
pub use store::{Percent, StoreConfig};
pub use trace::TraceConfig;
pub use trust::{TrustError, TrustMode, TrustRule, TrustedKey};

/// Read when no other file is named; may be absent.
pub const DEFAULT_FILE: &str = "/etc/jaunt/snapshotter.toml";
/// Where state is kept.
pub const DEFAULT_ROOT: &str = "/var/lib/jaunt";
/// Where mounts and the socket are.
pub const DEFAULT_RUN_DIR: &str = "/run/jaunt";
/// The socket of the containerd whose snapshotter this is.
pub const DEFAULT_CONTAINERD: &str = "/run/containerd/containerd.sock";
/// The socket's name in the run directory.
pub const SOCKET_NAME: &str = "snapshotter.sock";

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What a file or flags say; what they leave out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where state is kept.
    pub root: Option<PathBuf>,
    /// Where mounts and the socket are.
    pub run_dir: Option<PathBuf>,
    /// The socket that containerd calls.
    pub socket: Option<PathBuf>,
    /// Registries (`host` or `host:port`) spoken to without TLS. Loopback always is.
    #[serde(default)]
    pub plain_http: BTreeSet<String>,
    /// A file with registry credentials, as `docker login` and `podman login` write them; `None` is all of the user's.
    pub docker_config: Option<PathBuf>,
    /// How long Prepare waits for a registry before the layer is unpacked instead.
    pub resolve_timeout_seconds: Option<u64>,
    /// How long a container's read waits for registries in trouble before it is an error.
    pub read_deadline_seconds: Option<u64>,
    /// Features of the kernel that are not used, as if it had none.
    #[serde(default)]
    pub avoid_kernel_features: BTreeSet<KernelFeature>,
    /// Images of these repositories, and of all below them, are never left to the kernel alone: it refuses `O_DIRECT`.
    #[serde(default)]
    pub direct_io: Vec<RepositoryPrefix>,
    /// Who is trusted with launch artifacts, where no rule says otherwise.
    pub trust: Option<TrustMode>,
    /// The keys of those who are, if it is keys that count.
    #[serde(default)]
    pub trust_keys: Vec<TrustedKey>,
    /// What holds for repositories below a prefix instead.
    #[serde(default)]
    pub trust_rules: Vec<TrustRule>,
    /// The socket of the containerd whose snapshotter this is.
    pub containerd: Option<PathBuf>,
    /// When the original blobs of lazily pulled images are brought to containerd.
    pub originals: Option<OriginalsPolicy>,
    /// MB (millions of bytes) a second that are fetched for it in the background at most; 0: as many as come.
    pub originals_limit_mb_per_second: Option<u64>,
    /// How logs look.
    pub log_format: Option<LogFormat>,
    /// Mirrors and certificates.
    pub registries: Option<RegistriesConfig>,
    /// Logins besides those in Docker's configuration.
    pub credentials: Option<CredentialsConfig>,
    /// How much of layers is kept.
    pub store: Option<StoreConfig>,
    /// What is fetched of images that nobody reads.
    pub completion: Option<CompletionConfig>,
    /// What is fetched of images because earlier starts touched it.
    pub boot: Option<BootConfig>,
    /// Where figures are told.
    pub metrics: Option<MetricsConfig>,
    /// Where what happens is written down.
    pub trace: Option<TraceConfig>,
}

/// Settings with nothing left open. The supervisor hands them to every worker, so that a file edited
/// meanwhile cannot part the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// See [`Settings::root`].
    pub root: PathBuf,
    /// See [`Settings::run_dir`].
    pub run_dir: PathBuf,
    /// See [`Settings::socket`].
    pub socket: PathBuf,
    /// See [`Settings::plain_http`].
    pub plain_http: BTreeSet<String>,
    /// See [`Settings::docker_config`].
    pub docker_config: Option<PathBuf>,
    /// See [`Settings::resolve_timeout_seconds`].
    pub resolve_timeout_seconds: u64,
    /// See [`Settings::read_deadline_seconds`].
    pub read_deadline_seconds: u64,
    /// See [`Settings::avoid_kernel_features`].
    pub avoid_kernel_features: BTreeSet<KernelFeature>,
    /// See [`Settings::direct_io`].
    pub direct_io: Vec<RepositoryPrefix>,
    /// See [`Settings::trust`].
    pub trust: TrustMode,
    /// See [`Settings::trust_keys`].
    pub trust_keys: Vec<TrustedKey>,
    /// See [`Settings::trust_rules`].
    pub trust_rules: Vec<TrustRule>,
    /// See [`Settings::containerd`].
    pub containerd: PathBuf,
    /// See [`Settings::originals`].
    pub originals: OriginalsPolicy,
    /// See [`Settings::originals_limit_mb_per_second`].
    pub originals_limit_mb_per_second: u64,
    /// See [`Settings::log_format`].
    pub log_format: LogFormat,
    /// See [`Settings::registries`].
    pub registries: RegistriesConfig,
    /// See [`Settings::credentials`].
    pub credentials: CredentialsConfig,
    /// See [`Settings::store`].
    pub store: StoreConfig,
    /// See [`Settings::completion`].
    pub completion: CompletionConfig,
    /// See [`Settings::boot`].
    pub boot: BootConfig,
    /// See [`Settings::metrics`].
    pub metrics: MetricsConfig,
    /// See [`Settings::trace`].
    pub trace: TraceConfig,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {file}", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, or has a key that is unknown or of the wrong type.
    #[error("configuration file {file}", file = .file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It does not say who is trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl Settings {
    /// Reads `file`, or the default file if there is one.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { file: path.to_owned(), source }),
        };
        toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { file: path.to_owned(), source: Box::new(source) })
    }

    /// These settings, with `flags` over them. Lists add up.
    pub fn with_flags(self, flags: Self) -> Self {
        Self {
            root: flags.root.or(self.root),
            run_dir: flags.run_dir.or(self.run_dir),
            socket: flags.socket.or(self.socket),
            plain_http: self.plain_http.into_iter().chain(flags.plain_http).collect(),
            docker_config: flags.docker_config.or(self.docker_config),
            resolve_timeout_seconds: flags.resolve_timeout_seconds.or(self.resolve_timeout_seconds),
            read_deadline_seconds: flags.read_deadline_seconds.or(self.read_deadline_seconds),
            avoid_kernel_features: self
                .avoid_kernel_features
                .into_iter()
                .chain(flags.avoid_kernel_features)
                .collect(),
            direct_io: self.direct_io.into_iter().chain(flags.direct_io).collect(),
            trust: flags.trust.or(self.trust),
            trust_keys: self.trust_keys.into_iter().chain(flags.trust_keys).collect(),
            trust_rules: self.trust_rules.into_iter().chain(flags.trust_rules).collect(),
            containerd: flags.containerd.or(self.containerd),
            originals: flags.originals.or(self.originals),
            originals_limit_mb_per_second: flags
                .originals_limit_mb_per_second
                .or(self.originals_limit_mb_per_second),
            log_format: flags.log_format.or(self.log_format),
            registries: flags.registries.or(self.registries),
            credentials: flags.credentials.or(self.credentials),
            store: flags.store.or(self.store),
            completion: flags.completion.or(self.completion),
            boot: flags.boot.or(self.boot),
            metrics: flags.metrics.or(self.metrics),
            trace: flags.trace.or(self.trace),
        }
    }

    /// The socket alone, for commands that only call the daemon.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir().join(SOCKET_NAME))
    }

    /// Fills in the defaults.
    pub fn complete(self) -> Config {
        Config {
            socket: self.socket(),
            run_dir: self.run_dir(),
            root: self.root.unwrap_or_else(|| DEFAULT_ROOT.into()),
            plain_http: self.plain_http,
            docker_config: self.docker_config,
            resolve_timeout_seconds: self.resolve_timeout_seconds.unwrap_or(10),
            read_deadline_seconds: self.read_deadline_seconds.unwrap_or(30),
            avoid_kernel_features: self.avoid_kernel_features,
            direct_io: self.direct_io,
            trust: self.trust.unwrap_or_default(),
            trust_keys: self.trust_keys,
            trust_rules: self.trust_rules,
            containerd: self.containerd.unwrap_or_else(|| DEFAULT_CONTAINERD.into()),
            originals: self.originals.unwrap_or_default(),
            originals_limit_mb_per_second: self.originals_limit_mb_per_second.unwrap_or(20),
            log_format: self.log_format.unwrap_or_default(),
            registries: self.registries.unwrap_or_default(),
            credentials: self.credentials.unwrap_or_default(),
            store: self.store.unwrap_or_default(),
            completion: self.completion.unwrap_or_default(),
            boot: self.boot.unwrap_or_default(),
            metrics: self.metrics.unwrap_or_default(),
            trace: self.trace.unwrap_or_default(),
        }
    }

    fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| DEFAULT_RUN_DIR.into())
    }
}

#[cfg(test)]
mod tests {
    use jaunt_distribution::ClientConfig;

    use super::*;
    use crate::fallback::error_chain;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(
            &file,
            "read_deadline_seconds = 5\nroot = \"/a\"\nrun_dir = \"/r\"\nplain_http = [\"h:1\"]\nlog_format = \"json\"",
        )
        .unwrap();
        let flags = Settings {
            root: Some("/b".into()),
            plain_http: ["h:2".to_owned()].into(),
            ..Settings::default()
        };
        let config = Settings::read(Some(&file)).unwrap().with_flags(flags).complete();
        assert_eq!((config.root.to_str(), config.socket.to_str()), (Some("/b"), Some("/r/snapshotter.sock")));
        assert_eq!(config.plain_http.len(), 2);
        assert_eq!((config.log_format, config.resolve_timeout_seconds), (LogFormat::Json, 10));
        assert_eq!(config.read_deadline_seconds, 5);
    }

    #[test]
    fn the_file_that_is_shipped_names_every_key_with_its_default() {
        let shipped = include_str!("../../dist/snapshotter.toml");
        let is_key = |line: &&str| {
            line.starts_with("#[")
                || line.split_once(" = ").is_some_and(|(key, _)| {
                    key.chars().all(|c| c == '#' || c == '_' || c.is_ascii_lowercase())
                })
        };
        let keys: String = shipped.lines().filter(is_key).map(|line| format!("{}\n", &line[1..])).collect();
        let settings: Settings = toml::from_str(&keys).unwrap();
        // Two have no value for a default. Of the files that are read where none is named, Docker's is one.
        let (docker_config, mut registries) =
            (settings.docker_config.clone(), settings.registries.clone().unwrap());
        assert!(registries.tls_client.take().is_some());
        assert_eq!(docker_config, Some("/root/.docker/config.json".into()));
        let client = Config::client(&Settings::default().complete(), ClientConfig::default());
        assert!(
            client.auth_files.iter().any(|file| file.ends_with("config.json")),
            "{:?}",
            client.auth_files
        );
        let settings = Settings { registries: Some(registries), docker_config: None, ..settings };
        assert_eq!(settings.complete(), Settings::default().complete());
        let names = |table: toml::Table| table.keys().cloned().collect::<BTreeSet<_>>();
        let known = names(toml::Table::try_from(Settings::default().complete()).unwrap());
        assert!(names(toml::from_str(&keys).unwrap()).is_superset(&known));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "rot = \"/a\"").unwrap();
        let error = error_chain(&Settings::read(Some(&file)).unwrap_err());
        assert!(error.contains("c.toml") && error.contains("`rot`"), "{error}");
        let absent = Settings::read(Some(&dir.path().join("absent"))).unwrap_err();
        assert!(error_chain(&absent).contains("absent"));
    }
}
