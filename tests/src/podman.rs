//! podman with a storage of its own, which fetches of zstd:chunked layers what it does not have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At as _, Error, Result};
use crate::private;
use crate::process::{line, run};
use crate::scratch::Scratch;

/// The first one that pulls partially as the format is documented today.
pub const FIRST_VERSION: u32 = 5;

/// How podman and buildah are told to recompress what they push, whatever it was.
pub const CHUNKED: [&str; 3] = ["--compression-format", "zstd:chunked", "--force-compression"];

/// A podman as root; what it keeps goes with the scratch.
#[derive(Debug)]
pub struct Podman<'s> {
    scratch: &'s Scratch,
    dir: PathBuf,
}

impl<'s> Podman<'s> {
    /// The major version of the podman that is installed.
    pub fn version(scratch: &Scratch) -> Result<u32> {
        let said = run(private::here(scratch, "podman").arg("--version"))?;
        let major =
            said.split_whitespace().last().and_then(|version| version.split('.').next()?.parse().ok());
        major.ok_or_else(|| Error::unexpected("podman --version", said))
    }

    /// One with nothing in it.
    pub fn new(scratch: &'s Scratch) -> Result<Self> {
        let dir = scratch.dir("podman")?;
        for (name, text) in [("storage.conf", storage(&dir)), ("containers.conf", engine(&dir))] {
            fs::write(dir.join(name), text).at(dir.join(name))?;
        }
        let policy = dir.join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).at(&policy)?;
        Ok(Self { scratch, dir })
    }

    /// Pulls an image in plain HTTP; podman's account of it.
    pub fn pull(&self, reference: &str) -> Result<String> {
        let mut command = self.command(&["--log-level", "debug", "pull", "--tls-verify=false"]);
        command.arg("--signature-policy").arg(self.dir.join("policy.json")).arg(reference);
        let output = command.output().map_err(|source| Error::Spawn { command: line(&command), source })?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(stderr);
        }
        Err(Error::Failed { command: line(&command), status: output.status, stderr })
    }

    /// Pushes an image that it has to a registry in plain HTTP, recompressed as zstd:chunked.
    pub fn push_chunked(&self, reference: &str, target: &str) -> Result<()> {
        let mut command = self.command(&["push", "--quiet", "--tls-verify=false"]);
        command.args(CHUNKED).args([reference, &format!("docker://{target}")]);
        run(&mut command).map(drop)
    }

    /// Runs an image's own command to its end; what it printed.
    pub fn run(&self, reference: &str) -> Result<String> {
        // crun refuses a machine with control groups of both versions.
        let mut command = self.command(&["--runtime", "runc", "run", "--rm", "--pull", "never"]);
        command.args(["--network", "none", "--cgroup-parent"]).arg(format!("/{}", self.scratch.name()));
        run(command.arg(reference))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = private::here(self.scratch, "podman");
        command.env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"));
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1").args(words);
        command
    }
}

/// Only the overlay driver pulls partially.
fn storage(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[storage]\ndriver = \"overlay\"\nrunroot = \"{dir}/run\"\ngraphroot = \"{dir}/root\"\n\
         [storage.options]\npull_options = {{enable_partial_images = \"true\"}}\n"
    )
}

fn engine(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[engine]\nlock_type = \"file\"\nevents_logger = \"none\"\ncgroup_manager = \"cgroupfs\"\n\
         tmp_dir = \"{dir}/tmp\"\nstatic_dir = \"{dir}/libpod\"\nvolume_path = \"{dir}/volumes\"\n\
         [network]\nnetwork_config_dir = \"{dir}/networks\"\n"
    )
}
