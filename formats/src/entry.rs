//! One entry of a layer's tar, after PAX and GNU extensions have been applied.
//!
//! Paths are bytes: tar names need not be UTF-8. An [`EntryPath`] is safe by construction: relative,
//! without `.`, `..`, empty or NUL-bearing components, so no later code needs to check again.

use std::fmt;

use crate::TarOffset;

/// A normalised path inside a layer; the root is the empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Box<[u8]>);

/// Why a tar name cannot be a path inside a layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A NUL byte, which no Linux path can hold.
    #[error("path {0:?} holds a NUL byte")]
    Nul(String),
    /// A component longer than Linux's NAME_MAX of 255 bytes.
    #[error("path {0:?} has a component longer than 255 bytes")]
    ComponentTooLong(String),
    /// Longer than Linux's PATH_MAX of 4096 bytes.
    #[error("path of {0} bytes is longer than 4096")]
    TooLong(usize),
}

/// Linux's NAME_MAX: bytes in one path component.
pub const NAME_MAX: usize = 255;
/// Linux's PATH_MAX: bytes in a whole path.
pub const PATH_MAX: usize = 4096;

impl EntryPath {
    /// The root directory of the layer.
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// Normalises a name as unpackers do: leading `/` and `./` dropped, `.` and empty components
    /// skipped, `..` resolved against what precedes it; at the root it stays there, as it does in a chroot.
    pub fn parse(raw: &[u8]) -> Result<Self, PathError> {
        let shown = || String::from_utf8_lossy(raw).into_owned();
        if raw.len() > PATH_MAX {
            return Err(PathError::TooLong(raw.len()));
        }
        let mut components: Vec<&[u8]> = Vec::new();
        for component in raw.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop();
                }
                name if name.contains(&0) => return Err(PathError::Nul(shown())),
                name if name.len() > NAME_MAX => return Err(PathError::ComponentTooLong(shown())),
                name => components.push(name),
            }
        }
        Ok(Self(components.join(&b'/').into()))
    }

    /// Whether this is the root directory.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The whole path, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components from the root down; none for the root itself.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// Parent path and last component, or `None` for the root.
    pub fn split_last(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (Self(self.0[..slash].into()), &self.0[slash + 1..]),
            None => (Self::root(), &self.0),
        })
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// A point in time: seconds since the epoch, which may be negative, and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down.
    pub seconds: i64,
    /// Nanoseconds past `seconds`, 0..10^9.
    pub nanoseconds: u32,
}

/// An extended attribute: a full name (`user.x`, `security.capability`) and its raw value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// Name with its namespace prefix.
    pub name: Box<[u8]>,
    /// Value as the kernel returns it.
    pub value: Box<[u8]>,
}

/// A stretch of data within a sparse file; what lies between stretches reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseExtent {
    /// Offset in the file as the reader sees it.
    pub file_offset: u64,
    /// Where the bytes lie in the tar.
    pub tar_offset: TarOffset,
    /// Length in bytes.
    pub len: u64,
}

/// Where a regular file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The whole file, contiguous in the tar.
    Contiguous(TarOffset),
    /// A GNU sparse file: sorted stretches that do not overlap.
    Sparse(Vec<SparseExtent>),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EntryKind {
    Directory,
    /// `size` is the length a reader sees, in bytes.
    Regular {
        size: u64,
        content: Content,
    },
    /// The target is kept as written: it may be absolute or dangle.
    Symlink {
        target: Box<[u8]>,
    },
    /// Another name for an entry of the same layer.
    HardLink {
        target: EntryPath,
    },
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// One entry of a layer, as an unpacker would create it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes.
    pub path: EntryPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name, no name twice.
    pub xattrs: Vec<Xattr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_like_an_unpacker() {
        for (raw, want) in [
            ("./usr/bin/", "usr/bin"),
            ("/etc//passwd", "etc/passwd"),
            ("./", ""),
            ("", ""),
            ("a/./b/../c", "a/c"),
        ] {
            assert_eq!(EntryPath::parse(raw.as_bytes()).map(|p| p.0), Ok(want.as_bytes().into()), "{raw}");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_layer() {
        for (raw, want) in [
            ("..", ""),
            ("../x", "x"),
            ("a/../../b", "b"),
            ("/../etc/passwd", "etc/passwd"),
            ("//abs", "abs"),
            ("a/../..", ""),
        ] {
            assert_eq!(EntryPath::parse(raw.as_bytes()).map(|p| p.0), Ok(want.as_bytes().into()), "{raw}");
        }
        assert!(matches!(EntryPath::parse(b"a\0b"), Err(PathError::Nul(_))));
        assert!(matches!(EntryPath::parse(&[b'x'; 256]), Err(PathError::ComponentTooLong(_))));
        assert!(matches!(EntryPath::parse(&b"x/".repeat(2049)), Err(PathError::TooLong(4098))));
    }

    #[test]
    fn splits_parent_and_name() {
        let path = EntryPath::parse(b"a/b/c").expect("plain path");
        let (parent, name) = path.split_last().expect("not the root");
        assert_eq!((parent.as_bytes(), name), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(EntryPath::root().split_last(), None);
    }
}
