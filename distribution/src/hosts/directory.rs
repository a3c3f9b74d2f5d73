//! Settings from directories: containerd's layout and Docker's, which containerd reads as well.
//!
//! ```text
//! <directory>/<host>_<port>_/ or <host>:<port>/ or _default/
//!     hosts.toml                       all there is to say; else
//!     *.crt                            trusted authorities
//!     *.cert with *.key                client certificates
//! ```

use std::io;
use std::path::{Path, PathBuf};

use crate::files::{is_absent, read_small};
use crate::hosts::error::HostsError;
use crate::hosts::settings::{ClientCertificate, Host, RegistryHosts, TlsSettings};
use crate::limits;

/// Whose directory it is that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The registry's own.
    Own,
    /// The one for registries that have none.
    Default,
}

/// The settings of a registry in a directory, `None` when there are none.
pub(crate) fn read(directory: &Path, registry: &str) -> Result<Option<(Found, RegistryHosts)>, HostsError> {
    for name in names(registry) {
        if let Some(hosts) = read_host(&directory.join(name))? {
            return Ok(Some((Found::Own, hosts)));
        }
    }
    Ok(read_host(&directory.join("_default"))?.map(|hosts| (Found::Default, hosts)))
}

/// The names under which a registry's directory may be filed, best first.
fn names(registry: &str) -> Vec<String> {
    // Hosts of redirects come from a server: none may lead to another directory.
    if registry.is_empty()
        || registry.starts_with('.')
        || registry.contains(['/', '\0'])
        || registry == "_default"
    {
        return Vec::new();
    }
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    if registry == "docker.io" {
        names.extend(["registry-1.docker.io", "index.docker.io"].map(str::to_owned));
    }
    names
}

fn read_host(directory: &Path) -> Result<Option<RegistryHosts>, HostsError> {
    let unreadable = |path: &Path, source| HostsError::Unreadable { path: path.to_owned(), source };
    match directory.metadata() {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Ok(None),
        Err(error) if is_absent(&error) => return Ok(None),
        Err(source) => return Err(unreadable(directory, source)),
    }
    let file = directory.join("hosts.toml");
    match file.try_exists() {
        Ok(true) => read_toml(&file, directory).map(Some),
        Ok(false) => read_certificates(directory).map(Some),
        Err(source) => Err(unreadable(&file, source)),
    }
}

fn read_toml(file: &Path, directory: &Path) -> Result<RegistryHosts, HostsError> {
    let unreadable = |source| HostsError::Unreadable { path: file.to_owned(), source };
    let bytes = read_small(file).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(io::Error::other("is not text")))?;
    RegistryHosts::from_toml(&text, directory)
        .map_err(|source| HostsError::Toml { path: file.to_owned(), source })
}

fn read_certificates(directory: &Path) -> Result<RegistryHosts, HostsError> {
    let mut tls = TlsSettings::default();
    let files = list(directory)?;
    for path in &files {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.authorities.push(path.clone()),
            Some("cert") => {
                let key = path.with_extension("key");
                if !files.contains(&key) {
                    let reason = format!(
                        "a client certificate without its key {} (an authority's file ends in .crt)",
                        key.display()
                    );
                    return Err(HostsError::Unpaired { path: path.clone(), reason });
                }
                tls.client.push(ClientCertificate { certificate: path.clone(), key: Some(key) });
            }
            Some("key") if !files.contains(&path.with_extension("cert")) => {
                let reason =
                    format!("a key without its certificate {}", path.with_extension("cert").display());
                return Err(HostsError::Unpaired { path: path.clone(), reason });
            }
            _ => {}
        }
    }
    Ok(RegistryHosts { mirrors: Vec::new(), server: Host { tls, ..Host::default() } })
}

/// The files of a directory, in the order of their names.
fn list(directory: &Path) -> Result<Vec<PathBuf>, HostsError> {
    let unreadable = |source| HostsError::Unreadable { path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in directory.read_dir().map_err(unreadable)? {
        files.push(entry.map_err(unreadable)?.path());
        if files.len() > limits::SETTINGS_FILES {
            let reason = format!("has more than {} files", limits::SETTINGS_FILES);
            return Err(unreadable(io::Error::other(reason)));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
