//! containerd's `hosts.toml`: text in, settings out.
//!
//! Spec: containerd, `docs/hosts.md`. The hosts are tried in the order of the file, `server` last. Keys
//! that are not known are ignored, as containerd does, so that a newer file is read as well as it can be;
//! a known key with a value that makes no sense is an error, which containerd makes a warning of.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::hosts::settings::{ApiRoot, Capabilities, ClientCertificate, Host, RegistryHosts, TlsSettings};

/// What is wrong with a `hosts.toml`, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct HostsTomlError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

impl RegistryHosts {
    /// Reads a `hosts.toml`; paths in it are relative to `directory`.
    pub fn from_toml(text: &str, directory: &Path) -> Result<Self, HostsTomlError> {
        File { text, directory }.read()
    }
}

type Value<'a> = Spanned<DeValue<'a>>;

struct File<'a> {
    text: &'a str,
    directory: &'a Path,
}

impl File<'_> {
    fn read(&self) -> Result<RegistryHosts, HostsTomlError> {
        let file = DeTable::parse(self.text)
            .map_err(|error| self.wrong(error.span().unwrap_or_default().start, error.message()))?
            .into_inner();
        let mut mirrors = Vec::new();
        if let Some(hosts) = file.get("host") {
            let mut hosts: Vec<_> = self.table(hosts, "host")?.iter().collect();
            hosts.sort_by_key(|(name, _)| name.span().start);
            for (name, settings) in hosts {
                let settings = self.table(settings, name.get_ref())?;
                mirrors.push(self.host(Some((name.get_ref(), name.span().start)), settings)?);
            }
        }
        let server = match file.get("server") {
            Some(server) => Some((self.string(server, "server")?, server.span().start)),
            None => None,
        };
        let server = server.filter(|(name, _)| !name.is_empty());
        Ok(RegistryHosts { mirrors, server: self.host(server, &file)? })
    }

    /// One host's settings; `url` with its place in the file.
    fn host(&self, url: Option<(&str, usize)>, table: &DeTable<'_>) -> Result<Host, HostsTomlError> {
        let override_path = self.flag(table, "override_path")?;
        let api =
            url.map(|(url, at)| ApiRoot::parse(url, override_path).map_err(|reason| self.wrong(at, &reason)));
        let tls = TlsSettings {
            authorities: table.get("ca").map_or(Ok(Vec::new()), |ca| self.paths(ca, "ca"))?,
            client: table.get("client").map_or(Ok(Vec::new()), |client| self.clients(client))?,
            skip_verify: self.flag(table, "skip_verify")?,
        };
        Ok(Host {
            api: api.transpose()?,
            capabilities: self.capabilities(table)?,
            tls,
            headers: table.get("header").map_or(Ok(HeaderMap::new()), |header| self.headers(header))?,
            connect_timeout: table.get("dial_timeout").map(|value| self.duration(value)).transpose()?,
            proxy: table.get("proxy").map(|value| self.proxy(value)).transpose()?,
        })
    }

    fn capabilities(&self, table: &DeTable<'_>) -> Result<Capabilities, HostsTomlError> {
        let names = match table.get("capabilities") {
            Some(names) => self.array(names, "capabilities")?,
            None => return Ok(Capabilities::default()),
        };
        if names.is_empty() {
            return Ok(Capabilities::default());
        }
        let mut capabilities = Capabilities { pull: false, resolve: false, referrers: false, push: false };
        for name in names {
            match self.string(name, "a capability")?.to_ascii_lowercase().as_str() {
                "pull" => capabilities.pull = true,
                "resolve" => capabilities.resolve = true,
                "referrers" => capabilities.referrers = true,
                "push" => capabilities.push = true,
                _ => {
                    let known = "a capability is \"pull\", \"resolve\", \"referrers\" or \"push\"";
                    return Err(self.wrong(name.span().start, known));
                }
            }
        }
        Ok(capabilities)
    }

    /// A file, or several.
    fn paths(&self, value: &Value<'_>, what: &str) -> Result<Vec<PathBuf>, HostsTomlError> {
        match value.get_ref() {
            DeValue::Array(paths) => paths.iter().map(|path| self.path(path, what)).collect(),
            _ => Ok(vec![self.path(value, what)?]),
        }
    }

    /// A file with certificate and key, several of them, or pairs of files.
    fn clients(&self, value: &Value<'_>) -> Result<Vec<ClientCertificate>, HostsTomlError> {
        let one = |value: &Value<'_>| {
            let DeValue::Array(pair) = value.get_ref() else {
                return Ok(ClientCertificate { certificate: self.path(value, "client")?, key: None });
            };
            let [certificate, key] = &pair[..] else {
                return Err(self.wrong(value.span().start, "a pair in client is [certificate, key]"));
            };
            let certificate = self.path(certificate, "a client's certificate")?;
            let key = match self.string(key, "a client's key")? {
                "" => None,
                key => Some(self.directory.join(key)),
            };
            Ok(ClientCertificate { certificate, key })
        };
        match value.get_ref() {
            DeValue::Array(clients) => clients.iter().map(one).collect(),
            _ => Ok(vec![one(value)?]),
        }
    }

    fn headers(&self, value: &Value<'_>) -> Result<HeaderMap, HostsTomlError> {
        let mut headers = HeaderMap::new();
        for (name, values) in self.table(value, "header")? {
            let header: HeaderName = name
                .get_ref()
                .parse()
                .map_err(|_| self.wrong(name.span().start, "this is not the name of a header"))?;
            let values = match values.get_ref() {
                DeValue::Array(values) => values.iter().collect(),
                _ => vec![values],
            };
            for value in values {
                // Its text may be a secret: no error repeats it.
                let mut text: HeaderValue = self
                    .string(value, "a header")?
                    .parse()
                    .map_err(|_| self.wrong(value.span().start, "this is not valid in a header"))?;
                text.set_sensitive(true);
                headers.append(header.clone(), text);
            }
        }
        Ok(headers)
    }

    fn duration(&self, value: &Value<'_>) -> Result<Duration, HostsTomlError> {
        let text = self.string(value, "dial_timeout")?;
        let duration =
            text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
        duration.ok_or_else(|| {
            self.wrong(value.span().start, "dial_timeout is a time such as \"1s\" or \"500ms\"")
        })
    }

    fn proxy(&self, value: &Value<'_>) -> Result<Url, HostsTomlError> {
        let url: Option<Url> = self.string(value, "proxy")?.parse().ok();
        let fits = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        url.filter(fits)
            .ok_or_else(|| self.wrong(value.span().start, "proxy is the URL of an HTTP or HTTPS proxy"))
    }

    fn flag(&self, table: &DeTable<'_>, what: &str) -> Result<bool, HostsTomlError> {
        match table.get(what).map(|value| (value, value.get_ref())) {
            None => Ok(false),
            Some((_, DeValue::Boolean(flag))) => Ok(*flag),
            Some((value, _)) => Err(self.mistyped(value, what, "true or false")),
        }
    }

    fn path(&self, value: &Value<'_>, what: &str) -> Result<PathBuf, HostsTomlError> {
        match self.string(value, what)? {
            "" => Err(self.wrong(value.span().start, &format!("{what} names no file"))),
            path => Ok(self.directory.join(path)),
        }
    }

    fn string<'v>(&self, value: &'v Value<'_>, what: &str) -> Result<&'v str, HostsTomlError> {
        value.get_ref().as_str().ok_or_else(|| self.mistyped(value, what, "a string"))
    }

    fn array<'v, 'a>(&self, value: &'v Value<'a>, what: &str) -> Result<&'v [Value<'a>], HostsTomlError> {
        let array = value.get_ref().as_array().map(|array| &array[..]);
        array.ok_or_else(|| self.mistyped(value, what, "an array"))
    }

    fn table<'v, 'a>(&self, value: &'v Value<'a>, what: &str) -> Result<&'v DeTable<'a>, HostsTomlError> {
        value.get_ref().as_table().ok_or_else(|| self.mistyped(value, what, "a table"))
    }

    fn mistyped(&self, value: &Value<'_>, what: &str, wanted: &str) -> HostsTomlError {
        let is = value.get_ref().type_str();
        self.wrong(value.span().start, &format!("{what} is {wanted}, and not of type {is}"))
    }

    fn wrong(&self, at: usize, reason: &str) -> HostsTomlError {
        let before = self.text.as_bytes().iter().take(at);
        HostsTomlError { line: before.filter(|&&byte| byte == b'\n').count() + 1, reason: reason.to_owned() }
    }
}

#[cfg(test)]
#[path = "hosts_toml_tests.rs"]
mod tests;
