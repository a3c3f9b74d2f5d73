//! The programs that build images, and where they keep what they work on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mirror;
use crate::error::{At as _, Result};
use crate::process::run;
use crate::scratch::Scratch;

/// Tells dpkg not to wait for the disk after each file: what is built here is thrown away on a failure.
const UNSAFE_IO: &str = "DPKG_FORCE=unsafe-io";

/// debootstrap and buildah in a directory of their own.
pub struct Tools<'s> {
    scratch: &'s Scratch,
    dir: PathBuf,
    proxy: Option<String>,
}

impl<'s> Tools<'s> {
    pub fn new(scratch: &'s Scratch) -> Result<Self> {
        let dir = scratch.dir("build")?;
        for cache in ["lists/partial", "archives/partial"] {
            scratch.dir(&format!("build/{cache}"))?;
        }
        let policy = dir.join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).at(&policy)?;
        Ok(Self { scratch, dir, proxy: mirror::proxy() })
    }

    /// A base system, as published base images are: no downloaded packages, no package lists.
    pub fn debootstrap(&self, suite: &str, mirror: &str) -> Result<PathBuf> {
        let rootfs = self.dir.join("rootfs");
        let mut debootstrap = self.command("debootstrap");
        debootstrap.envs(UNSAFE_IO.split_once('=')).args(["--variant=minbase", suite]);
        run(debootstrap.arg(&rootfs).arg(mirror))?;
        for dir in ["var/cache/apt/archives", "var/lib/apt/lists"].map(|dir| rootfs.join(dir)) {
            fs::remove_dir_all(&dir).at(&dir)?;
            fs::create_dir(&dir).at(&dir)?;
        }
        Ok(rootfs)
    }

    /// Commits what was done to `container` as a layer; the name of a new one above it.
    pub fn next_layer(&self, container: &str) -> Result<String> {
        let image = self.commit(container)?;
        self.buildah(&["from", &image])
    }

    /// Writes the image of a container's layers as an OCI layout.
    pub fn push(&self, container: &str, layout: &Path) -> Result<()> {
        let image = self.commit(container)?;
        self.buildah(&["push", "--quiet", &image, &format!("oci:{}:latest", layout.display())])?;
        Ok(())
    }

    /// Installs packages. apt's lists and archives stay out of the layer: they are mounted over it.
    pub fn install(&self, container: &str, packages: &[String]) -> Result<()> {
        let (lists, archives) = (self.dir.join("lists"), self.dir.join("archives"));
        let script = format!(
            "test -e /var/lib/apt/lists/fetched || apt-get -q update && touch /var/lib/apt/lists/fetched && \
             apt-get -qy install --no-install-recommends {}",
            packages.join(" ")
        );
        let lists = format!("{}:/var/lib/apt/lists", lists.display());
        let archives = format!("{}:/var/cache/apt/archives", archives.display());
        let isolation =
            ["run", "--isolation", "chroot", "--env", "DEBIAN_FRONTEND=noninteractive", "--env", UNSAFE_IO];
        let words = [&isolation[..], &["-v", &lists, "-v", &archives, container, "--", "sh", "-c", &script]];
        self.buildah(&words.concat())?;
        Ok(())
    }

    /// Puts a file into a container.
    pub fn write(&self, container: &str, path: &Path, text: &str) -> Result<()> {
        let file = self.dir.join("file");
        fs::write(&file, text).at(&file)?;
        let (file, path) = (file.display().to_string(), path.display().to_string());
        self.buildah(&["copy", "--quiet", container, &file, &path])?;
        Ok(())
    }

    pub fn buildah(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command("buildah");
        command.arg("--root").arg(self.dir.join("storage")).arg("--runroot").arg(self.dir.join("run"));
        command.args(["--storage-driver", "overlay", words[0]]);
        if ["from", "commit", "push"].contains(&words[0]) {
            command.arg("--signature-policy").arg(self.dir.join("policy.json"));
        }
        Ok(run(command.args(&words[1..]))?.trim().to_owned())
    }

    fn commit(&self, container: &str) -> Result<String> {
        let image = format!("localhost/{container}:latest");
        self.buildah(&["commit", "--quiet", container, &image])?;
        Ok(image)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.scratch.command(program);
        if let Some(proxy) = &self.proxy {
            command.env("http_proxy", proxy);
        }
        command
    }
}
