//! buildah with a storage of its own, without containers: it pulls, mounts and pushes.

use std::fs;
use std::path::PathBuf;

use crate::error::{At as _, Result};
use crate::process::run;
use crate::scratch::Scratch;

/// A buildah as root that trusts everything; what it keeps goes with the scratch.
#[derive(Debug)]
pub struct Buildah<'s> {
    scratch: &'s Scratch,
    dir: PathBuf,
}

impl<'s> Buildah<'s> {
    /// One with nothing in it.
    pub fn new(scratch: &'s Scratch) -> Result<Self> {
        let dir = scratch.dir("buildah")?;
        let policy = dir.join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).at(&policy)?;
        Ok(Self { scratch, dir })
    }

    /// Runs a command of its; the first word takes a signature policy. What it printed.
    pub fn run_trusting(&self, words: &[&str]) -> Result<String> {
        let (first, rest) = words.split_first().unwrap_or((&"version", &[]));
        let policy = self.dir.join("policy.json").display().to_string();
        self.run(&[&[*first, "--signature-policy", &policy], rest].concat())
    }

    /// Runs a command of its; what it printed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = self.scratch.command("buildah");
        command.arg("--root").arg(self.dir.join("storage")).arg("--runroot").arg(self.dir.join("run"));
        run(command.args(["--storage-driver", "overlay"]).args(words))
    }
}
