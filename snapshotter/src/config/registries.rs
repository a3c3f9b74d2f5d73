//! How registries are reached: in the clear or not, with which logins and certificates, and through which mirrors.

use std::path::PathBuf;

use jaunt_distribution::{ClientCertificate, ClientConfig, HostSettings, TlsSettings};
use serde::{Deserialize, Serialize};

use super::Settings;

/// The table `[registries]`; what it leaves out has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistriesConfig {
    /// Directories with one directory a registry, in containerd's layout or Docker's. The first that knows a registry
    /// counts.
    pub certs_dirs: Vec<PathBuf>,
    /// PEM files of authorities that every registry may be vouched for by, besides the system's.
    pub tls_ca: Vec<PathBuf>,
    /// For registries that want a client certificate and have none in a directory of their own.
    pub tls_client: Option<ClientFiles>,
}

/// A client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFiles {
    /// A PEM file.
    pub certificate: PathBuf,
    /// A PEM file; left out when the certificate's holds the key as well.
    pub key: Option<PathBuf>,
}

impl Default for RegistriesConfig {
    /// Where containerd and Docker look.
    fn default() -> Self {
        let certs_dirs = ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(PathBuf::from).into();
        Self { certs_dirs, tls_ca: Vec::new(), tls_client: None }
    }
}

impl RegistriesConfig {
    /// The same, as the client is told.
    pub fn host_settings(&self) -> HostSettings {
        let client = self.tls_client.clone();
        let client = client.map(|files| ClientCertificate { certificate: files.certificate, key: files.key });
        let authorities = self.tls_ca.clone();
        let tls = TlsSettings { authorities, client: client.into_iter().collect(), skip_verify: false };
        HostSettings { directories: self.certs_dirs.clone(), tls, ..HostSettings::default() }
    }
}

/// Flags of every command that speaks to registries.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RegistryFlags {
    /// Speak plain HTTP to this registry; may be repeated
    #[arg(long, value_name = "HOST")]
    plain_http: Vec<String>,
    /// File with registry credentials, as `docker login` and `podman login` write them [default: where they do]
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// Mirrors and certificates of registries, in containerd's layout or Docker's, looked for here before the configured
    /// directories; may be repeated [default: /etc/containerd/certs.d and /etc/docker/certs.d]
    #[arg(long, value_name = "DIR")]
    certs_dir: Vec<PathBuf>,
    /// Trust this authority besides the system's; may be repeated
    #[arg(long, value_name = "FILE")]
    tls_ca: Vec<PathBuf>,
    /// A certificate for registries that ask for one
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key, unless the certificate's file holds it
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl RegistryFlags {
    /// The settings with these flags over them.
    pub fn over(self, settings: Settings) -> Settings {
        let mut registries = settings.registries.clone().unwrap_or_default();
        registries.certs_dirs.splice(0..0, self.certs_dir);
        registries.tls_ca.extend(self.tls_ca);
        if let Some(certificate) = self.tls_cert {
            registries.tls_client = Some(ClientFiles { certificate, key: self.tls_key });
        }
        settings.with_flags(Settings {
            plain_http: self.plain_http.into_iter().collect(),
            docker_config: self.docker_config,
            registries: Some(registries),
            ..Settings::default()
        })
    }
}

impl super::Config {
    /// The registry client's settings; `patience` are those that nobody configures.
    pub fn client(&self, patience: ClientConfig) -> ClientConfig {
        let auth_files = self.docker_config.clone().map_or(patience.auth_files, |file| vec![file]);
        let (plain_http, hosts) = (self.plain_http.clone(), self.registries.host_settings());
        let pull_secrets = self.credentials.pull_secrets.clone();
        ClientConfig { plain_http, hosts, auth_files, pull_secrets, ..patience }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        registries: RegistryFlags,
    }

    #[test]
    fn flags_are_looked_at_before_the_file_and_the_file_before_the_defaults() {
        let settings =
            || toml::from_str::<Settings>("[registries]\ncerts_dirs = [\"/a\"]\ntls_ca = [\"/ca\"]").unwrap();
        let words =
            "x --certs-dir /b --certs-dir /c --tls-ca /other --tls-cert /me --tls-key /key --plain-http h";
        let flags = Command::try_parse_from(words.split(' ')).unwrap().registries;
        let client = flags.over(settings()).complete().client(ClientConfig::default());
        assert_eq!(client.hosts.directories, ["/b", "/c", "/a"].map(PathBuf::from));
        assert_eq!(client.hosts.tls.authorities, ["/ca", "/other"].map(PathBuf::from));
        let own = ClientCertificate { certificate: "/me".into(), key: Some("/key".into()) };
        assert_eq!(client.hosts.tls.client, [own]);
        assert!(client.plain_http.contains("h"));
        let plain = RegistryFlags::default().over(Settings::default()).complete();
        assert_eq!(plain.registries, RegistriesConfig::default());
        assert_eq!(
            RegistryFlags::default().over(settings()).complete().registries.certs_dirs,
            [PathBuf::from("/a")]
        );
    }

    #[test]
    fn a_key_without_its_certificate_is_refused() {
        assert!(Command::try_parse_from(["x", "--tls-key", "/key"]).is_err());
        assert!(toml::from_str::<Settings>("[registries]\ntls_client = { key = \"/key\" }").is_err());
    }
}
