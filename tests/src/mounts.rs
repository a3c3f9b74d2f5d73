//! Mounts that go away again with the value that stands for them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::error::{At as _, Error, Result};
use crate::process::run;
use crate::scratch::Scratch;

/// Something mounted; dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
}

impl Mounted {
    /// Runs the `mount` command line that `ctr snapshots mounts` prints for `point`.
    pub fn by_command(scratch: &Scratch, point: PathBuf, line: &str) -> Result<Self> {
        // As containerd mounts. fsconfig(2), which newer mount programs prefer, takes no option of more than
        // 255 bytes, and so few lower directories.
        run(scratch.command("sh").args(["-ec", line]).env("LIBMOUNT_FORCE_MOUNT2", "always"))?;
        Ok(Self { point })
    }

    /// A tmpfs of `bytes` at `point`, which is made: a disk that fills up.
    pub fn tmpfs(scratch: &Scratch, point: PathBuf, bytes: u64) -> Result<Self> {
        fs::create_dir_all(&point).at(&point)?;
        let options = format!("size={bytes}");
        run(scratch.command("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&point))?;
        Ok(Self { point })
    }

    /// What is at `point` already, and cannot be written to by that path any more.
    pub fn read_only(scratch: &Scratch, point: &Path) -> Result<Self> {
        run(scratch.command("mount").arg("--bind").args([point, point]))?;
        let mounted = Self { point: point.to_owned() };
        run(scratch.command("mount").args(["-o", "remount,bind,ro"]).arg(point))?;
        Ok(mounted)
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.point, UnmountFlags::empty()) {
            eprintln!("unmounting {}: {error}; detaching it", self.point.display());
            let _ = unmount(&self.point, UnmountFlags::DETACH);
        }
    }
}

/// The mount points at or below `dir`, in the order they were mounted.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(unescape(point))).filter(|point| point.starts_with(dir)).collect()
}

/// KiB that the kernel reads ahead of who reads below a FUSE mount.
pub fn read_ahead_kib(point: &Path) -> Result<u32> {
    let minor = rustix::fs::minor(fs::metadata(point).at(point)?.dev());
    let path = PathBuf::from(format!("/sys/class/bdi/0:{minor}/read_ahead_kb"));
    let told = fs::read_to_string(&path).at(&path)?;
    told.trim().parse().map_err(|_| Error::unexpected(path.display().to_string(), told))
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
