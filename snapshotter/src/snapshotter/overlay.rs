//! Mounts as containerd performs them: binds and overlays, from lower directories.

use std::path::{Path, PathBuf};

use crate::kernel;
use crate::metastore::Kind;

/// One mount, in containerd's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `bind` or `overlay`.
    pub kind: &'static str,
    /// What is bound, or `overlay`.
    pub source: String,
    /// In the form of mount(8)'s `-o`.
    pub options: Vec<String>,
}

/// What a snapshot is mounted from.
pub struct Layers {
    /// View or active.
    pub kind: Kind,
    /// The snapshot's own files.
    pub upper: PathBuf,
    /// Its work directory.
    pub work: PathBuf,
    /// Lower directories, topmost first.
    pub lowers: Vec<PathBuf>,
    /// Whether the lowest of them is a lazy chain: a file system of its own.
    pub lazy: bool,
    /// `uidmap=` and `gidmap=`, for containerd to map ids with.
    pub id_maps: Vec<String>,
}

/// Options of this host's overlays.
pub struct HostOptions {
    /// For all of them.
    always: Vec<String>,
    /// For those whose layers lie on more than one file system.
    mixed: Vec<String>,
    maps_lazy: bool,
}

impl HostOptions {
    /// Whether the kernel maps the ids of lazy chains.
    pub fn maps_lazy(&self) -> bool {
        self.maps_lazy
    }
}

impl Layers {
    /// The mount: a bind where one directory says it all, else an overlay with the host's options.
    pub fn mount(self, options: &HostOptions) -> Mount {
        let writable = self.kind == Kind::Active;
        let mut mount_options = self.id_maps;
        match self.lowers.as_slice() {
            [] => bind(&self.upper, writable, mount_options),
            [only] if !writable => bind(only, false, mount_options),
            lowers => {
                if writable {
                    mount_options.push(format!("workdir={}", self.work.display()));
                    mount_options.push(format!("upperdir={}", self.upper.display()));
                }
                let lowers: Vec<_> = lowers.iter().map(|lower| lower.display().to_string()).collect();
                mount_options.push(format!("lowerdir={}", lowers.join(":")));
                mount_options.extend_from_slice(&options.always);
                if self.lazy {
                    mount_options.extend_from_slice(&options.mixed);
                }
                Mount { kind: "overlay", source: "overlay".to_owned(), options: mount_options }
            }
        }
    }
}

fn bind(source: &Path, writable: bool, mut options: Vec<String>) -> Mount {
    options.push(if writable { "rw" } else { "ro" }.to_owned());
    options.push("rbind".to_owned());
    Mount { kind: "bind", source: source.display().to_string(), options }
}

/// Options that overlays on this host get: `index=off` where the kernel has the feature, since it
/// refuses a lower directory that another overlay's upper had; `userxattr` in a user namespace, which
/// may not set `trusted.*`. Over several file systems, `xino=on` keeps one device number and the layers' own inode
/// numbers, as overlayfs does by itself on one disk; ours have 32 bits, so there is room for the kernel's mark.
pub fn host_options() -> HostOptions {
    let has = |parameter: &str| Path::new("/sys/module/overlay/parameters").join(parameter).exists();
    let mut options = Vec::new();
    if has("index") {
        options.push("index=off".to_owned());
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let release = kernel::release();
    if in_user_namespace(&read("/proc/self/uid_map")) && kernel::is_at_least(&release, kernel::USERXATTR) {
        options.push("userxattr".to_owned());
    }
    let mixed = if has("xino_auto") { vec!["xino=on".to_owned()] } else { Vec::new() };
    HostOptions { always: options, mixed, maps_lazy: kernel::is_at_least(&release, kernel::MAPPED_FUSE) }
}

/// The initial namespace maps all of the 32-bit ids onto themselves.
fn in_user_namespace(uid_map: &str) -> bool {
    let fields: Vec<_> = uid_map.split_whitespace().collect();
    !uid_map.is_empty() && fields != ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(kind: Kind, lowers: &[&str]) -> Layers {
        Layers {
            kind,
            upper: "/s/9/fs".into(),
            work: "/s/9/work".into(),
            lowers: lowers.iter().map(PathBuf::from).collect(),
            lazy: false,
            id_maps: Vec::new(),
        }
    }

    fn host() -> HostOptions {
        let (always, mixed) = (vec!["index=off".to_owned()], vec!["xino=on".to_owned()]);
        HostOptions { always, mixed, maps_lazy: true }
    }

    #[test]
    fn binds_where_one_directory_says_it_all() {
        for (layers, source, mode) in [
            (layers(Kind::Active, &[]), "/s/9/fs", "rw"),
            (layers(Kind::View, &[]), "/s/9/fs", "ro"),
            (layers(Kind::View, &["/s/1/fs"]), "/s/1/fs", "ro"),
        ] {
            let mount = layers.mount(&host());
            assert_eq!((mount.kind, mount.source.as_str()), ("bind", source));
            assert_eq!(mount.options, [mode, "rbind"]);
        }
    }

    #[test]
    fn overlays_the_rest() {
        let active = layers(Kind::Active, &["/s/1/fs"]).mount(&host());
        assert_eq!(
            active.options,
            ["workdir=/s/9/work", "upperdir=/s/9/fs", "lowerdir=/s/1/fs", "index=off"]
        );
        let view = Layers { lazy: true, ..layers(Kind::View, &["/s/2/fs", "/s/1/fs"]) }.mount(&host());
        assert_eq!(view.options, ["lowerdir=/s/2/fs:/s/1/fs", "index=off", "xino=on"]);
    }

    #[test]
    fn knows_namespaces() {
        assert!(!in_user_namespace("         0          0 4294967295\n"));
        assert!(in_user_namespace("         0       1000          1\n"));
    }
}
