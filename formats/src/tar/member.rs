//! What a group of headers amounts to: fields with their extensions applied, and the entry they make.

use std::ops::Range;

use super::error::{Problem, shown};
use super::header::Fields;
use super::pax::Pax;
use crate::entry::PATH_MAX;
use crate::{Content, Entry, EntryKind, EntryPath, TarOffset, Timestamp, Xattr};

/// One entry, and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// What an unpacker makes of it.
    pub entry: Entry,
    /// Where its first header block is: a PAX header or long name counts.
    pub header: TarOffset,
    /// The bytes stored for it; empty for all but non-empty regular files.
    pub content: Range<u64>,
    /// The same as the headers say it.
    pub written: Written,
}

/// Header fields after extensions, before interpretation: what zstd:chunked's TOC repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Written {
    pub typeflag: u8,
    pub name: Vec<u8>,
    pub link_name: Vec<u8>,
    pub mode: i64,
    pub size: i64,
    pub mtime: Timestamp,
    pub atime: Option<Timestamp>,
    pub ctime: Option<Timestamp>,
    pub dev_major: i64,
    pub dev_minor: i64,
}

impl Written {
    pub(super) fn of(fields: &Fields, size: i64) -> Self {
        Self {
            typeflag: fields.typeflag,
            name: fields.name.clone(),
            link_name: fields.link_name.clone(),
            mode: fields.mode,
            size,
            mtime: fields.mtime,
            atime: fields.atime,
            ctime: fields.ctime,
            dev_major: fields.dev_major,
            dev_minor: fields.dev_minor,
        }
    }
}

/// Extensions that apply to the next entry.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Whether any extension came, be it an empty one.
    pub any: bool,
    pub pax: Pax,
    pub long_name: Vec<u8>,
    pub long_link: Vec<u8>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        !self.any
    }

    /// PAX first, then GNU long names, as Go has it.
    pub fn apply(&self, fields: &mut Fields) {
        fn set<T: Clone>(field: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                field.clone_from(value);
            }
        }
        let pax = &self.pax;
        set(&mut fields.name, pax.path.as_ref());
        set(&mut fields.link_name, pax.link_path.as_ref());
        set(&mut fields.uid, pax.uid.as_ref());
        set(&mut fields.gid, pax.gid.as_ref());
        set(&mut fields.size, pax.size.as_ref());
        set(&mut fields.mtime, pax.mtime.as_ref());
        fields.atime = pax.atime.or(fields.atime);
        fields.ctime = pax.ctime.or(fields.ctime);
        set(&mut fields.name, Some(&self.long_name).filter(|name| !name.is_empty()));
        set(&mut fields.link_name, Some(&self.long_link).filter(|link| !link.is_empty()));
    }
}

pub(super) fn entry_of(fields: &Fields, size: i64, content: Content, pax: Pax) -> Result<Entry, Problem> {
    let name = || shown(&fields.name);
    let path = |raw: &[u8]| EntryPath::parse(raw).map_err(|source| Problem::Path { name: name(), source });
    let id = |what, id| u32::try_from(id).map_err(|_| Problem::Owner { name: name(), what, id });
    let device = |number| u32::try_from(number).map_err(|_| Problem::Device(name()));
    let kind = match fields.typeflag {
        b'0' | b'7' | b'S' => EntryKind::Regular { size: size_of(&fields.name, size)?, content },
        b'1' => EntryKind::HardLink { target: path(&fields.link_name)? },
        b'2' => EntryKind::Symlink { target: symlink_target(fields)? },
        b'3' => EntryKind::CharDevice { major: device(fields.dev_major)?, minor: device(fields.dev_minor)? },
        b'4' => EntryKind::BlockDevice { major: device(fields.dev_major)?, minor: device(fields.dev_minor)? },
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => return Err(Problem::UnknownType { name: name(), typeflag: other.into() }),
    };
    Ok(Entry {
        path: path(&fields.name)?,
        kind,
        // Twelve bits are left of it.
        mode: u32::try_from(fields.mode & 0o7777).unwrap_or(0),
        uid: id("uid", fields.uid)?,
        gid: id("gid", fields.gid)?,
        mtime: fields.mtime,
        xattrs: pax
            .xattrs
            .into_iter()
            .map(|(name, value)| Xattr { name: name.into(), value: value.into() })
            .collect(),
    })
}

/// No link can be made to nothing, nor to more than a path can be.
fn symlink_target(fields: &Fields) -> Result<Box<[u8]>, Problem> {
    match &fields.link_name[..] {
        target if (1..PATH_MAX).contains(&target.len()) => Ok(target.into()),
        target => Err(Problem::SymlinkTarget { name: shown(&fields.name), len: target.len() }),
    }
}

pub(super) fn is_regular(typeflag: u8) -> bool {
    matches!(typeflag, b'0' | b'7' | b'S')
}

pub(super) fn size_of(name: &[u8], size: i64) -> Result<u64, Problem> {
    u64::try_from(size).map_err(|_| Problem::NegativeSize(shown(name)))
}
