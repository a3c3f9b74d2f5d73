//! Debian's nginx before a registry: as a caching tier, configured by the very recipe that doc/ gives to users, or as a
//! gate that speaks TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::authority::Issued;
use crate::error::{At as _, Error, Result};
use crate::http;
use crate::process::{Daemon, children, cpu_seconds};
use crate::scratch::Scratch;

/// What users copy, up to addresses and directory.
const RECIPE: &str = include_str!("../../doc/nginx-cache.conf");
const START_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A running nginx; stopped when dropped. What it has cached goes with the scratch.
#[derive(Debug)]
pub struct Nginx {
    daemon: Daemon,
    address: SocketAddr,
    log: PathBuf,
}

/// What stands before a registry.
#[derive(Clone, Debug)]
pub struct Gate {
    /// By which it answers.
    pub identity: Issued,
    /// Of the whole server, in nginx's words.
    pub settings: String,
    /// Of what goes on to the registry.
    pub checks: String,
}

impl Nginx {
    /// Starts one on `address` before the registry at `upstream`, with nothing cached.
    pub fn start(scratch: &Scratch, address: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        Self::with(scratch, address, 200, |dir| recipe(dir, address, upstream))
    }

    /// Starts one on `address` that speaks TLS, and lets by to the registry at `upstream` what passes its checks.
    pub fn gate(scratch: &Scratch, address: SocketAddr, upstream: SocketAddr, gate: &Gate) -> Result<Self> {
        // That is what it says to whoever does not speak TLS.
        Self::with(scratch, address, 400, |_| {
            let Gate { identity, settings, checks } = gate;
            Ok(format!(
                "server {{\nlisten {address} ssl;\nssl_certificate {};\nssl_certificate_key {};\nclient_max_body_size 0;\n{settings}\n\
                 location / {{ {checks}\nproxy_pass http://{upstream};\nproxy_set_header Host $http_host; }}\n}}\n",
                identity.certificate.display(),
                identity.key.display(),
            ))
        })
    }

    /// Starts one with what `recipe` makes of its directory, and waits for an answer of that status to plain HTTP.
    fn with(
        scratch: &Scratch,
        address: SocketAddr,
        status: u16,
        recipe: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<Self> {
        let dir = scratch.dir("nginx")?;
        let recipe = recipe(&dir)?;
        let log = dir.join("access.log");
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(&dir, &log, &recipe)).at(&config)?;
        let mut command = scratch.command("nginx");
        command.args(["-e", "stderr", "-p"]).arg(&dir).arg("-c").arg(&config);
        let mut daemon = Daemon::spawn("nginx", &mut command, &scratch.logs())?;
        daemon.wait_until("answering for the registry", START_LIMIT, || {
            http::request_within(ANSWER_LIMIT, address, "GET", "/v2/", &[], b"")
                .is_ok_and(|answer| answer.status == status)
        })?;
        Ok(Self { daemon, address, log })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A line for each request that it has answered, with the status and who asked.
    pub fn access_log(&self) -> Result<String> {
        fs::read_to_string(&self.log).at(&self.log)
    }

    /// Requests that it has answered so far.
    pub fn requests(&self) -> Result<u64> {
        let log = fs::read(&self.log).at(&self.log)?;
        Ok(log.iter().filter(|byte| **byte == b'\n').count() as u64)
    }

    /// CPU time of all its processes so far.
    pub fn cpu_seconds(&self) -> f64 {
        let master = self.daemon.pid();
        let processes = children(master).into_iter().chain([master]);
        processes.filter_map(|pid| cpu_seconds(&pid.to_string())).map(|(own, _)| own).sum()
    }

    /// Ends it at once, as a machine that goes away.
    pub fn stop(&mut self) -> Result<()> {
        let workers = children(self.daemon.pid());
        self.daemon.kill()?;
        // Workers outlive a killed master.
        workers.into_iter().for_each(|pid| crate::process::signal_pid(pid, rustix::process::Signal::KILL));
        Ok(())
    }
}

/// The recipe for this registry and directory; one that no longer says what is replaced here is an error.
fn recipe(dir: &Path, address: SocketAddr, upstream: SocketAddr) -> Result<String> {
    let cache = dir.join("cache").display().to_string();
    let changes = [
        ("/var/cache/nginx/registry", cache),
        ("registry.example:5000", upstream.to_string()),
        ("listen 5000;", format!("listen {address};")),
    ];
    changes.into_iter().try_fold(RECIPE.to_owned(), |text, (from, to)| match text.contains(from) {
        true => Ok(text.replace(from, &to)),
        false => Err(Error::unexpected("doc/nginx-cache.conf", format!("has no {from:?}"))),
    })
}

/// What Debian has around a recipe, with everything in `dir`.
fn configuration(dir: &Path, log: &Path, recipe: &str) -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String =
        kinds.map(|kind| format!("{kind}_temp_path {}/{kind};\n", dir.display())).concat();
    format!(
        "user root;\ndaemon off;\nworker_processes auto;\npid {}/nginx.pid;\nevents {{ worker_connections 768; }}\n\
         http {{\nsendfile on;\ntcp_nopush on;\nkeepalive_requests 100000;\naccess_log {};\n{temporary}{recipe}}}\n",
        dir.display(),
        log.display(),
    )
}
