//! containerd's configuration, as each of its generations wants it.
//!
//! Every generation is told all it needs to pull lazily, in the way it offers: CRI passes image labels on
//! up to 2.0, the transfer service from 2.1 on.

use std::fmt;
use std::path::Path;

use super::Snapshotter;
use crate::error::{Error, Result};
use crate::process::run;
use crate::scratch::Scratch;

/// A containerd's version, as far as its behaviour depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 or 2.
    pub major: u32,
    /// The generation within it.
    pub minor: u32,
}

impl Version {
    /// From this one on, the transfer service passes image labels on, and CRI pulls through it.
    pub const LAZY_TRANSFER: Self = Self { major: 2, minor: 1 };
    /// From this one on, layers are unpacked side by side where a snapshotter allows it.
    pub const PARALLEL_UNPACK: Self = Self { major: 2, minor: 2 };

    /// That of the `containerd` which [`super::Containerd::start`] starts.
    pub fn installed(scratch: &Scratch) -> Result<Self> {
        let said = run(scratch.command("containerd").arg("--version"))?;
        Self::parse(&said).ok_or_else(|| Error::unexpected("containerd --version", said))
    }

    /// Reads `containerd REPOSITORY VERSION ...`.
    fn parse(said: &str) -> Option<Self> {
        let version = said.split_whitespace().nth(2)?;
        let mut numbers = version.trim_start_matches('v').split('.').map(str::parse);
        Some(Self { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The configuration of a containerd that keeps everything in `dir`.
pub fn text(version: Version, dir: &Path, snapshotter: &Snapshotter) -> String {
    let (format, own) = match version.major {
        ..2 => (2, version_2(dir, snapshotter)),
        2.. => (3, version_3(dir, snapshotter)),
    };
    let dir = dir.display();
    format!(
        r#"version = {format}
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[debug]
  level = "warn"
[grpc]
  address = "{dir}/containerd.sock"
[ttrpc]
  address = "{dir}/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
{own}"#
    )
}

/// What 1.6 and 1.7 call it.
fn version_2(dir: &Path, snapshotter: &Snapshotter) -> String {
    let (name, dir) = (snapshotter.name(), dir.display());
    let proxy = proxy_plugin(snapshotter, "");
    format!(
        r#"  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/cni/bin"
    conf_dir = "{dir}/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{dir}/hosts"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{name}"
    disable_snapshot_annotations = false
{proxy}"#
    )
}

/// What 2.x calls it. The list of what the transfer service unpacks for replaces its default, overlayfs.
/// NRI's socket is the machine's, whatever else lies in a directory of one's own.
fn version_3(dir: &Path, snapshotter: &Snapshotter) -> String {
    let (name, dir) = (snapshotter.name(), dir.display());
    let exports = "  [proxy_plugins.jaunt.exports]\n    enable_remote_snapshot_annotations = \"true\"\n";
    let proxy = proxy_plugin(snapshotter, exports);
    let unpack = match snapshotter {
        Snapshotter::Overlayfs => String::new(),
        Snapshotter::Jaunt(_) => ["jaunt", "overlayfs"].map(unpack_config).concat(),
    };
    format!(
        r#"[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{name}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{dir}/hosts"
[plugins."io.containerd.cri.v1.runtime".cni]
  conf_dir = "{dir}/cni/conf"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
{unpack}{proxy}"#
    )
}

fn unpack_config(snapshotter: &str) -> String {
    format!(
        "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  platform = \"linux\"\n  \
         snapshotter = \"{snapshotter}\"\n"
    )
}

fn proxy_plugin(snapshotter: &Snapshotter, exports: &str) -> String {
    match snapshotter {
        Snapshotter::Overlayfs => String::new(),
        Snapshotter::Jaunt(socket) => {
            format!("[proxy_plugins.jaunt]\n  type = \"snapshot\"\n  address = {socket:?}\n{exports}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        let version = |major, minor| Some(Version { major, minor });
        for (said, parsed) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", version(1, 6)),
            ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", version(2, 1)),
            ("containerd github.com/containerd/containerd/v2 v2.3.0-beta.1 abc", version(2, 3)),
            ("containerd", None),
            ("containerd x unknown", None),
        ] {
            assert_eq!(Version::parse(said), parsed, "{said}");
        }
    }
}
