//! A real registry (Debian's docker-registry), here or on the far side of a [`Network`].

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jaunt_formats::Digest;
use rustix::process::Signal;

use crate::cold;
use crate::error::{At as _, Error, Result};
use crate::http::{self, Response};
use crate::network::Network;
use crate::process::{Daemon, cpu_seconds};
use crate::scratch::Scratch;

const PORT: u16 = 5000;
/// Where it tells what it has counted.
const FIGURES_PORT: u16 = 5001;
/// Loopback addresses that are tried.
const ADDRESSES: usize = 16;
/// The header by which a registry says whose it is.
const TOKEN: &str = "x-jaunt-token";
const START_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Who may come into a guarded registry.
pub const USER: &str = "user";
/// By this password.
pub const PASSWORD: &str = "hunter2";
/// Both, as they are sent.
pub const AUTH: &str = "dXNlcjpodW50ZXIy";
/// bcrypt of the password.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.";

/// Every manifest type a test may want to see as it is.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// A running registry; stopped when dropped, its data goes with the scratch.
#[derive(Debug)]
pub struct Registry {
    daemon: Daemon,
    address: SocketAddr,
    data: PathBuf,
    /// What is sent as `Authorization`.
    login: Option<String>,
}

impl Registry {
    /// Starts one on a loopback address of its own. There are 16 million; one that somebody has, as another suite on
    /// the same machine, is left for another.
    pub fn local(scratch: &Scratch) -> Result<Self> {
        Self::at_first_free(scratch, loopback_addresses(), &[])
    }

    /// The same, asking for [`USER`] and [`PASSWORD`], by which this harness itself comes in.
    pub fn guarded(scratch: &Scratch) -> Result<Self> {
        let registry = Self::at_first_free(scratch, loopback_addresses(), &guard(scratch, USER)?)?;
        Ok(Self { login: Some(format!("Basic {AUTH}")), ..registry })
    }

    /// Has a guarded registry know nobody but this user, by [`PASSWORD`].
    pub fn admit(scratch: &Scratch, user: &str) -> Result<()> {
        guard(scratch, user).map(drop)
    }

    fn at_first_free(
        scratch: &Scratch,
        addresses: impl IntoIterator<Item = Ipv4Addr>,
        settings: &[(&str, String)],
    ) -> Result<Self> {
        let mut last = None;
        for address in addresses {
            let token = random();
            let config = configure(scratch, address, token, "")?;
            let mut command = scratch.command("docker-registry");
            command.envs(settings.iter().cloned());
            match Self::start(scratch, command.arg("serve").arg(config), address, token) {
                Err(Error::Failed { status, command, stderr }) => {
                    last = Some(Error::Failed { status, command, stderr });
                }
                started => return started,
            }
        }
        Err(last.unwrap_or_else(|| Error::unexpected("the registry", "no address was tried")))
    }

    /// Starts one behind `network`, which remembers what it has told of blobs, as Debian's configuration has it: what it costs and how
    /// fast it answers are measured. (Those here, whose files tests change behind their backs, do not.)
    pub fn remote(scratch: &Scratch, network: &Network) -> Result<Self> {
        Self::behind(scratch, network, &[])
    }

    /// The same, asking for [`USER`] and [`PASSWORD`] as [`Registry::guarded`] does.
    pub fn guarded_remote(scratch: &Scratch, network: &Network) -> Result<Self> {
        let registry = Self::behind(scratch, network, &guard(scratch, USER)?)?;
        Ok(Self { login: Some(format!("Basic {AUTH}")), ..registry })
    }

    fn behind(scratch: &Scratch, network: &Network, settings: &[(&str, String)]) -> Result<Self> {
        let token = random();
        let config = configure(scratch, network.remote(), token, "cache: {blobdescriptor: inmemory}")?;
        let mut command = network.command(scratch, "docker-registry");
        command.envs(settings.iter().cloned());
        Self::start(scratch, command.arg("serve").arg(config), network.remote(), token)
    }

    /// Whoever answers there, it is the right one only if it knows the token.
    fn start(
        scratch: &Scratch,
        command: &mut std::process::Command,
        ip: Ipv4Addr,
        token: u64,
    ) -> Result<Self> {
        let address = SocketAddr::new(IpAddr::V4(ip), PORT);
        let daemon = spawn(scratch, command, address, token)?;
        Ok(Self { daemon, address, data: data_dir(scratch, ip), login: None })
    }

    /// `host:port`, as it stands in references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request below `/v2/`; any status is an answer.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let login = self.login.iter().map(|login| ("Authorization", login.as_str()));
        let headers: Vec<_> = headers.iter().copied().chain(login).collect();
        http::request(self.address, method, &format!("/v2/{path}"), &headers, body)
    }

    /// A manifest by tag or digest, with its own digest.
    pub fn manifest(&self, repository: &str, name: &str) -> Result<(serde_json::Value, Digest)> {
        let path = format!("{repository}/manifests/{name}");
        let body = self.expect(200, "GET", &path, &[("Accept", MANIFESTS)], b"")?.body;
        let value =
            serde_json::from_slice(&body).map_err(|error| Error::unexpected(&path, error.to_string()))?;
        Ok((value, Digest::of(&body)))
    }

    /// A whole blob.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Result<Vec<u8>> {
        Ok(self.expect(200, "GET", &format!("{repository}/blobs/{digest}"), &[], b"")?.body)
    }

    /// Stores a blob under its digest.
    pub fn push_blob(&self, repository: &str, blob: &[u8]) -> Result<Digest> {
        let digest = Digest::of(blob);
        let started = self.expect(202, "POST", &format!("{repository}/blobs/uploads/"), &[], b"")?;
        let location = started.header("location").unwrap_or_default();
        let target = location.split_once("/v2/").map_or(location, |(_, path)| path);
        let joint = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{joint}digest={digest}");
        self.expect(201, "PUT", &target, &[("Content-Type", "application/octet-stream")], blob)?;
        Ok(digest)
    }

    /// Stores a manifest under a tag.
    pub fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest> {
        let path = format!("{repository}/manifests/{tag}");
        self.expect(201, "PUT", &path, &[("Content-Type", media_type)], bytes)?;
        Ok(Digest::of(bytes))
    }

    /// The file that holds a blob's bytes: a fault is injected by changing it.
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.data.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(&hex).join("data")
    }

    /// Reads all of the registry's files, as a machine of its own would have them in memory.
    pub fn warm(&self) -> Result<()> {
        cold::warm(&self.data)
    }

    /// Requests that it has answered so far.
    pub fn requests(&self) -> Result<u64> {
        self.counted("")
    }

    /// Those of them that were for blobs.
    pub fn blob_requests(&self) -> Result<u64> {
        self.counted("handler=\"blob\"")
    }

    /// Requests whose labels have `part` in them.
    fn counted(&self, part: &str) -> Result<u64> {
        let address = SocketAddr::new(self.address.ip(), FIGURES_PORT);
        let told = http::request(address, "GET", "/metrics", &[], b"")?.body;
        let told = String::from_utf8_lossy(&told).into_owned();
        let counts = told.lines().filter(|line| line.starts_with("registry_http_requests_total{"));
        let counts = counts
            .filter(|line| line.contains(part))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        // Whole numbers, which Prometheus writes as floating-point ones.
        Ok(counts.fold(0, |sum, count| sum.saturating_add(whole(count))))
    }

    /// CPU time it has used so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let pid = self.daemon.pid().to_string();
        let (own, _) = cpu_seconds(&pid).ok_or_else(|| Error::unexpected("the registry", "has ended"))?;
        Ok(own)
    }

    /// The process that answers.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Stops answering without closing a connection, until [`Registry::resume`].
    pub fn pause(&mut self) {
        self.daemon.signal(Signal::STOP);
    }

    /// Answers again.
    pub fn resume(&mut self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Refuses connections from now on.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Answers again with all that it had. (One that was made by [`Registry::local`].)
    pub fn start_again(&mut self, scratch: &Scratch) -> Result<()> {
        let IpAddr::V4(ip) = self.address.ip() else {
            return Err(Error::unexpected("the registry", "has no such address"));
        };
        let token = random();
        let config = configure(scratch, ip, token, "")?;
        let mut command = scratch.command("docker-registry");
        self.daemon = spawn(scratch, command.arg("serve").arg(config), self.address, token)?;
        Ok(())
    }

    fn expect(
        &self,
        status: u16,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let response = self.request(method, path, headers, body)?;
        if response.status == status {
            return Ok(response);
        }
        let said = String::from_utf8_lossy(&response.body).into_owned();
        Err(Error::unexpected(
            format!("{method} {path}"),
            format!("{} instead of {status}: {said}", response.status),
        ))
    }
}

fn spawn(
    scratch: &Scratch,
    command: &mut std::process::Command,
    address: SocketAddr,
    token: u64,
) -> Result<Daemon> {
    let token = token.to_string();
    let mut daemon = Daemon::spawn("registry", command, &scratch.logs())?;
    daemon.wait_until("accepting connections", START_LIMIT, || {
        http::request_within(ANSWER_LIMIT, address, "GET", "/v2/", &[], b"")
            .is_ok_and(|answer| answer.header(TOKEN) == Some(&token))
    })?;
    Ok(daemon)
}

/// Settings of a guarded registry, whose file knows one user. It looks into that again when it has changed.
fn guard(scratch: &Scratch, user: &str) -> Result<[(&'static str, String); 3]> {
    let users = scratch.path().join("htpasswd");
    fs::write(&users, format!("{user}:{HASH}\n")).at(&users)?;
    Ok([
        ("REGISTRY_AUTH", "htpasswd".to_owned()),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "test".to_owned()),
        ("REGISTRY_AUTH_HTPASSWD_PATH", users.display().to_string()),
    ])
}

fn data_dir(scratch: &Scratch, ip: Ipv4Addr) -> PathBuf {
    scratch.path().join("registry").join(ip.to_string())
}

fn loopback_addresses() -> impl Iterator<Item = Ipv4Addr> {
    let random_address = || {
        let [a, b, c, ..] = random().to_be_bytes();
        Ipv4Addr::new(127, a | 1, b, c.clamp(1, 254))
    };
    std::iter::repeat_with(random_address).take(ADDRESSES)
}

/// The standard library's hasher keys are the randomness.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A count as an integer; nothing for what is none.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(count: f64) -> u64 {
    count as u64
}

/// `more` is said of the storage.
fn configure(scratch: &Scratch, ip: Ipv4Addr, token: u64, more: &str) -> Result<PathBuf> {
    let data = data_dir(scratch, ip);
    fs::create_dir_all(&data).at(&data)?;
    let file: &Path = &data.with_extension("yml");
    let config = format!(
        "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
         delete: {{enabled: true}}\n  {more}\nhttp: {{addr: '{ip}:{PORT}', headers: {{{TOKEN}: ['{token}']}}, \
         debug: {{addr: '{ip}:{FIGURES_PORT}', prometheus: {{enabled: true, path: /metrics}}}}}}\n",
        data.display(),
    );
    fs::write(file, config).at(file)?;
    Ok(file.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_that_somebody_has_is_left_for_another() {
        if !Path::new("/usr/bin/docker-registry").exists() {
            eprintln!("skipped: docker-registry is not installed");
            return;
        }
        let scratch = Scratch::new().unwrap();
        let first = Registry::local(&scratch).unwrap();
        let IpAddr::V4(taken) = first.address().ip() else { panic!("{}", first.address()) };
        // Another suite's registry answers there, and something that is none keeps silent there.
        let silent = Ipv4Addr::from(u32::from(taken) ^ 0x0100);
        let listener = TcpListener::bind((silent, PORT)).unwrap();
        let free = Ipv4Addr::from(u32::from(taken) ^ 0x0200);
        let second = Registry::at_first_free(&scratch, [taken, silent, free], &[]).unwrap();
        assert_eq!(second.address().ip(), free);
        second.push_blob("a", b"x").unwrap();
        assert!(first.blob("a", &Digest::of(b"x")).is_err());
        drop(listener);
    }
}
