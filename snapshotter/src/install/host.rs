//! The machine that is changed: this one, or one whose root directory is mounted somewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::InstallError;

/// Where programs are, on distributions that have containerd.
const PROGRAM_DIRS: [&str; 5] = ["usr/local/bin", "usr/bin", "bin", "usr/sbin", "usr/local/sbin"];

/// A machine, by its root directory.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine whose root directory is `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether it is the one that this runs on.
    pub fn is_this(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a path of its own is.
    pub fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A program of its own, by its path there.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let own = PROGRAM_DIRS.iter().map(|dir| Path::new("/").join(dir).join(program));
        own.into_iter().find(|path| self.at(path).is_file())
    }

    /// A command that runs a program of its own on it.
    pub fn command(&self, program: &Path) -> Command {
        if self.is_this() {
            return Command::new(program);
        }
        let mut command = Command::new("chroot");
        command.arg(&self.root).arg(program);
        command
    }

    /// Runs a program of its own, and returns what it prints.
    pub fn run(&self, program: &Path, words: &[&str]) -> Result<String, InstallError> {
        let told = || format!("{} {}", program.display(), words.join(" "));
        let output = self.command(program).args(words).output();
        let output = output.map_err(|source| InstallError::Run { command: told(), source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(InstallError::Failed { command: told(), said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
