//! The machine that is changed: this one, or one whose root directory is mounted somewhere.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use super::InstallError;

/// Where programs are, on distributions that have containerd.
const PROGRAM_DIRS: [&str; 5] = ["usr/local/bin", "usr/bin", "bin", "usr/sbin", "usr/local/sbin"];

/// As the kernel has it.
const LINKS_MAX: usize = 40;

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

    /// Where a path of its own is, with links followed as the machine follows them: an absolute one starts at its root,
    /// and none leads out of it. What is not there stands for itself.
    pub fn at(&self, path: &Path) -> Result<PathBuf, InstallError> {
        let mut resolved = PathBuf::new();
        let mut left: VecDeque<OsString> = names(path).collect();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            let Ok(target) = std::fs::read_link(self.root.join(&resolved).join(&name)) else {
                resolved.push(name);
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                let source = std::io::Error::from(rustix::io::Errno::LOOP);
                return Err(InstallError::Io {
                    path: self.root.join(path.strip_prefix("/").unwrap_or(path)),
                    source,
                });
            }
            if target.is_absolute() {
                resolved.clear();
            }
            names(&target).rev().for_each(|name| left.push_front(name));
        }
        Ok(self.root.join(resolved))
    }

    /// A place of [`Host::at`] as the machine calls it.
    pub fn within(&self, place: &Path) -> PathBuf {
        Path::new("/").join(place.strip_prefix(&self.root).unwrap_or(place))
    }

    /// A program of its own, by its path there.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let own = PROGRAM_DIRS.iter().map(|dir| Path::new("/").join(dir).join(program));
        own.into_iter().find(|path| self.at(path).is_ok_and(|place| place.is_file()))
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

fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}
