//! What can be wrong with a tar, and where.

use crate::TarOffset;
use crate::entry::PathError;

/// A tar that no layer may consist of: what is wrong, and the header or byte at which it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tar offset {at}: {problem}")]
pub struct ScanError {
    /// Offset of the header at fault, or of the end for a truncated tar.
    pub at: TarOffset,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a tar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The checksum of a header block does not match: not a tar, or a damaged one.
    #[error("not a tar header: checksum mismatch")]
    Checksum,
    /// A numeric header field holds no number.
    #[error("header field {0} is not a number")]
    Number(&'static str),
    /// The size is negative.
    #[error("entry {0:?} has a negative size")]
    NegativeSize(String),
    /// One zero block that is not followed by another.
    #[error("a lone zero block in front of data")]
    LoneZeroBlock,
    /// A PAX header, GNU long name or long link beyond what any sane tar needs.
    #[error("extension header of {len} bytes is longer than {limit}")]
    ExtensionTooLong {
        /// Its length.
        len: u64,
        /// The most accepted.
        limit: u64,
    },
    /// A PAX record breaks the grammar `<length> <key>=<value>\n`.
    #[error("malformed PAX record")]
    PaxRecord,
    /// A PAX record's value cannot be what its key says.
    #[error("PAX record {key}={value:?} is malformed")]
    PaxValue {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// The sparse map does not describe the stored bytes.
    #[error("sparse file {name:?}: {what}")]
    Sparse {
        /// The entry.
        name: String,
        /// What is wrong with the map.
        what: &'static str,
    },
    /// A typeflag that containerd refuses too.
    #[error("entry {name:?} has unsupported type {typeflag:?}")]
    UnknownType {
        /// The entry.
        name: String,
        /// Its typeflag.
        typeflag: char,
    },
    /// The name or a hard link's target is no path inside a layer.
    #[error("entry {name:?}: {source}")]
    Path {
        /// The entry.
        name: String,
        /// What is wrong with its path.
        source: PathError,
    },
    /// A symbolic link to nothing, or to more than Linux's PATH_MAX allows.
    #[error("symbolic link {name:?} has a target of {len} bytes, which Linux cannot hold")]
    SymlinkTarget {
        /// The link.
        name: String,
        /// Length of its target.
        len: usize,
    },
    /// A user or group beyond 32 bits, or below zero.
    #[error("entry {name:?} has {what} {id}, which Linux cannot hold")]
    Owner {
        /// The entry.
        name: String,
        /// `uid` or `gid`.
        what: &'static str,
        /// The number.
        id: i64,
    },
    /// A device number beyond 32 bits, or below zero.
    #[error("device {0:?} has a device number that Linux cannot hold")]
    Device(String),
    /// The tar ends within a header block or an extension.
    #[error("tar ends within a header")]
    TruncatedHeader,
    /// The tar ends within a file.
    #[error("tar ends within {name:?}, {missing} bytes short")]
    TruncatedContent {
        /// The entry.
        name: String,
        /// Bytes of content that are missing.
        missing: u64,
    },
}

/// Bytes of a name that a message repeats: no honest name needs more to be recognised.
const SHOWN: usize = 200;

/// A name for an error message.
pub(super) fn shown(name: &[u8]) -> String {
    match name.split_at_checked(SHOWN) {
        Some((start, rest)) if !rest.is_empty() => format!("{}…", String::from_utf8_lossy(start)),
        _ => String::from_utf8_lossy(name).into_owned(),
    }
}
