//! Our own binaries, used by their command lines alone.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{At as _, Error, Result};
use crate::process::{Daemon, children, run};
use crate::scratch::Scratch;

const START_LIMIT: Duration = Duration::from_secs(60);

/// Where the binaries under test lie.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
    /// What of them is logged, where it is not what they log by themselves.
    log: Option<&'static str>,
}

impl Binaries {
    /// Those beside the running program (cargo's target directory), or in `JAUNT_BIN_DIR`.
    pub fn find() -> Result<Self> {
        let dir = match std::env::var_os("JAUNT_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => beside_this_program()?,
        };
        for name in ["jaunt-proxy", "jaunt-snapshotter"] {
            if !dir.join(name).is_file() {
                let what = dir.join(name).display().to_string();
                return Err(Error::unexpected(what, "not built: run `make build` first"));
            }
        }
        Ok(Self { dir, log: None })
    }

    /// The same, logging what `filter` lets through.
    #[must_use]
    pub fn logging(self, filter: &'static str) -> Self {
        Self { log: Some(filter), ..self }
    }

    /// A `jaunt-proxy` command.
    pub fn proxy(&self, scratch: &Scratch, words: &[&str]) -> Command {
        self.command(scratch, "jaunt-proxy", words)
    }

    /// A `jaunt-snapshotter` command.
    pub fn snapshotter(&self, scratch: &Scratch, words: &[&str]) -> Command {
        self.command(scratch, "jaunt-snapshotter", words)
    }

    fn command(&self, scratch: &Scratch, name: &str, words: &[&str]) -> Command {
        let mut command = scratch.command(self.dir.join(name));
        command.args(words).envs(self.log.map(|filter| ("RUST_LOG", filter)));
        command
    }

    /// Converts an image in its registry.
    pub fn convert(&self, scratch: &Scratch, reference: &str) -> Result<String> {
        let host = reference.split('/').next().unwrap_or_default();
        run(&mut self.proxy(scratch, &["convert", "--plain-http", host, reference]))
    }
}

/// `target/<profile>`, whether this program lies there (a binary) or in its `deps` (a test).
fn beside_this_program() -> Result<PathBuf> {
    let program = std::env::current_exe()
        .map_err(|error| Error::unexpected("this program's path", error.to_string()))?;
    let dir = program.parent().unwrap_or(Path::new("."));
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}

/// A running `jaunt-snapshotter serve`; stopped when dropped.
#[derive(Debug)]
pub struct Jaunt {
    daemon: Daemon,
    dir: PathBuf,
}

impl Jaunt {
    /// Starts one in the directory `name` of the scratch; `registries` are spoken to in plain HTTP.
    pub fn start(binaries: &Binaries, scratch: &Scratch, name: &str, registries: &[String]) -> Result<Self> {
        Self::configured(binaries, scratch, name, registries, "")
    }

    /// The same with `config` as its configuration file.
    pub fn configured(
        binaries: &Binaries,
        scratch: &Scratch,
        name: &str,
        registries: &[String],
        config: &str,
    ) -> Result<Self> {
        let dir = scratch.dir(name)?;
        let file = dir.join("snapshotter.toml");
        std::fs::write(&file, config).at(&file)?;
        let mut command = Self::command(binaries, scratch, &dir, registries);
        command.arg("--config").arg(&file);
        let daemon = Daemon::spawn(name, &mut command, &scratch.logs())?;
        let mut jaunt = Self { daemon, dir };
        let socket = jaunt.socket();
        jaunt.daemon.wait_until("its socket", START_LIMIT, || UnixStream::connect(&socket).is_ok())?;
        // The socket is the supervisor's, and there before a worker has taken up what was left and answers.
        let mut status = binaries.snapshotter(scratch, &["status", "--socket"]);
        status.arg(&socket);
        jaunt.daemon.wait_until("answers", START_LIMIT, || run(&mut status).is_ok())?;
        Ok(jaunt)
    }

    /// The command line of a daemon whose state, run directory and socket lie in `dir`.
    pub fn command(binaries: &Binaries, scratch: &Scratch, dir: &Path, registries: &[String]) -> Command {
        let mut command = binaries.snapshotter(scratch, &["serve"]);
        command.arg("--root").arg(dir.join("root")).arg("--run-dir").arg(dir.join("run"));
        command.arg("--socket").arg(socket_in(dir));
        // Only the scratch's own configuration counts, not the machine's in /etc/jaunt.
        for registry in registries {
            command.args(["--plain-http", registry]);
        }
        command
    }

    /// Its gRPC socket.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.dir)
    }

    /// Its state.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Its run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// The supervisor's process ID.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// The process that serves at the moment, if one does.
    pub fn worker(&self) -> Option<u32> {
        children(self.daemon.pid()).last().copied()
    }

    /// Whether the supervisor lives.
    pub fn alive(&mut self) -> bool {
        matches!(self.daemon.exited(), Ok(None))
    }

    /// SIGKILL, and wait. Its worker dies with it.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// SIGTERM, and wait.
    pub fn stop(&mut self) -> Result<()> {
        self.daemon.stop()
    }
}

fn socket_in(dir: &Path) -> PathBuf {
    dir.join("jaunt.sock")
}
