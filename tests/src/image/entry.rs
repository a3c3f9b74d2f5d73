//! The words of the fixture language: one function a kind of entry, and what may be said about one.

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// One entry of a layer's tar.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// Some moment in 2020: fixtures are the same whenever they are built.
const SOME_TIME: i64 = 1_600_000_000;

fn entry(path: impl AsRef<[u8]>, kind: Kind, mode: u32) -> Entry {
    let path = path.as_ref().to_vec();
    Entry { path, kind, mode, uid: 0, gid: 0, seconds: SOME_TIME, nanoseconds: 0, xattrs: Vec::new() }
}

/// A directory; `""` is the root.
pub fn dir(path: impl AsRef<[u8]>, mode: u32) -> Entry {
    entry(path, Kind::Directory, mode)
}

/// A regular file, mode 0644.
pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::File(content.as_ref().to_vec()), 0o644)
}

/// A symbolic link; the target is kept as written.
pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::Symlink(target.as_ref().to_vec()), 0o777)
}

/// Another name for an earlier file of the same layer.
pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::HardLink(target.as_ref().to_vec()), 0o644)
}

/// A character device, mode 0666.
pub fn char_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Entry {
    entry(path, Kind::CharDevice(major, minor), 0o666)
}

/// A block device, mode 0660.
pub fn block_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Entry {
    entry(path, Kind::BlockDevice(major, minor), 0o660)
}

/// A named pipe, mode 0600.
pub fn fifo(path: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::Fifo, 0o600)
}

/// Removes what lower layers have at `path`.
pub fn whiteout(path: impl AsRef<[u8]>) -> Entry {
    let path = path.as_ref();
    let name = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let marker = [&path[..name], b".wh.", &path[name..]].concat();
    entry(marker, Kind::File(Vec::new()), 0o644)
}

/// Removes what lower layers have in the directory `path`.
pub fn opaque(path: impl AsRef<[u8]>) -> Entry {
    entry([path.as_ref(), b"/.wh..wh..opq"].concat(), Kind::File(Vec::new()), 0o644)
}

impl Entry {
    /// Other permission bits, setuid and the like included.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// Another owner and group than root's.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// Another modification time.
    #[must_use]
    pub fn mtime(self, seconds: i64, nanoseconds: u32) -> Self {
        Self { seconds, nanoseconds, ..self }
    }

    /// One more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }
}
