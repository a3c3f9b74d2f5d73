//! What an unpacker makes of an entry's attributes: what it cannot write, it leaves out.
//!
//! The reference is containerd's unpacker on Linux. It writes 0 for times that do not fit 64 bits of
//! nanoseconds, skips `trusted.*` and attributes of unknown namespaces, and the kernel gives symbolic links
//! mode 0777 and neither them nor devices `user.*`.

use super::InodeKind;
use crate::{Entry, EntryKind, Timestamp, Xattr};

/// Mode of a directory that no layer describes: what `mkdir -p` as root gives.
const IMPLIED_MODE: u32 = 0o755;
/// Mode of every symbolic link, whatever the tar says of it.
const SYMLINK_MODE: u32 = 0o777;
/// The last moment that 64 bits of nanoseconds can say, in the year 2262.
const LAST_MOMENT: Timestamp = Timestamp { seconds: 9_223_372_036, nanoseconds: 854_775_807 };
/// Linux's XATTR_NAME_MAX: bytes in an attribute's name.
const XATTR_NAME_MAX: usize = 255;
/// Linux's XATTR_SIZE_MAX: bytes in an attribute's value.
const XATTR_SIZE_MAX: usize = 64 << 10;
/// overlayfs would act upon these where it is mounted with `userxattr`.
const OVERLAY_XATTRS: &[u8] = b"user.overlay.";
/// The attributes of the `system` namespace that a file system of ours may have.
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Mode, owner, time and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: Vec<Xattr>,
}

impl Attributes {
    /// Those of an entry; of a hard link, those that its target is to have.
    pub(super) fn of(entry: Entry) -> Self {
        let Entry { kind, mode, uid, gid, mtime, mut xattrs, .. } = entry;
        let kind = FileKind::of(&kind);
        xattrs.retain(|xattr| is_presentable(xattr, kind));
        let mut own = Self { mode: mode_of(kind, mode), uid, gid, mtime: presentable(mtime), xattrs };
        own.fit_acl();
        own
    }

    /// Those of a directory that no layer lists.
    pub(super) fn implied() -> Self {
        Self { mode: IMPLIED_MODE, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Vec::new() }
    }

    /// A later entry of the same file speaks: extended attributes it does not name stay.
    pub(super) fn update(&mut self, later: Self, kind: &InodeKind) {
        let kind = FileKind::of_inode(kind);
        let Self { mode, uid, gid, mtime, xattrs } = later;
        (self.mode, self.uid, self.gid, self.mtime) = (mode_of(kind, mode), uid, gid, mtime);
        self.merge_xattrs(xattrs.into_iter().filter(|xattr| is_presentable(xattr, kind)));
        self.fit_acl();
    }

    /// An unpacker sets the mode last, and with it the parts of an access list that say the same.
    fn fit_acl(&mut self) {
        let Some(at) = self.xattrs.iter().position(|xattr| *xattr.name == *ACLS[0]) else { return };
        match acl_of_mode(&self.xattrs[at].value, self.mode) {
            Some(value) => self.xattrs[at].value = value.into(),
            None => drop(self.xattrs.remove(at)),
        }
    }

    /// Sets these, in the place of others of the same names.
    pub(super) fn merge_xattrs(&mut self, xattrs: impl IntoIterator<Item = Xattr>) {
        for xattr in xattrs {
            match self.xattrs.binary_search_by(|have| have.name.cmp(&xattr.name)) {
                Ok(at) => self.xattrs[at] = xattr,
                Err(at) => self.xattrs.insert(at, xattr),
            }
        }
    }
}

/// What matters of a file's type here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    RegularOrDirectory,
    Symlink,
    Special,
    /// Whatever its target is.
    HardLink,
}

impl FileKind {
    fn of(kind: &EntryKind) -> Self {
        match kind {
            EntryKind::Directory | EntryKind::Regular { .. } => Self::RegularOrDirectory,
            EntryKind::Symlink { .. } => Self::Symlink,
            EntryKind::HardLink { .. } => Self::HardLink,
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } | EntryKind::Fifo => Self::Special,
        }
    }
}

impl FileKind {
    fn of_inode(kind: &InodeKind) -> Self {
        match kind {
            InodeKind::Directory { .. } | InodeKind::Regular { .. } | InodeKind::Sparse { .. } => {
                Self::RegularOrDirectory
            }
            InodeKind::Symlink { .. } => Self::Symlink,
            InodeKind::CharDevice { .. } | InodeKind::BlockDevice { .. } | InodeKind::Fifo => Self::Special,
        }
    }
}

fn mode_of(kind: FileKind, mode: u32) -> u32 {
    if kind == FileKind::Symlink { SYMLINK_MODE } else { mode }
}

fn presentable(time: Timestamp) -> Timestamp {
    if (Timestamp::default()..=LAST_MOMENT).contains(&time) { time } else { Timestamp::default() }
}

fn is_presentable(xattr: &Xattr, kind: FileKind) -> bool {
    let name = &xattr.name[..];
    let in_namespace = if let Some(rest) = name.strip_prefix(b"user.") {
        let allowed = matches!(kind, FileKind::RegularOrDirectory | FileKind::HardLink);
        allowed && !rest.is_empty() && !name.starts_with(OVERLAY_XATTRS)
    } else if let Some(rest) = name.strip_prefix(b"security.") {
        !rest.is_empty()
    } else {
        ACLS.contains(&name) && is_acl(&xattr.value)
    };
    in_namespace && name.len() <= XATTR_NAME_MAX && xattr.value.len() <= XATTR_SIZE_MAX
}

/// Bytes of an access list in front of its entries: the version, 2.
const ACL_HEADER_LEN: usize = 4;
/// Bytes of an entry: u16 tag, u16 permissions, u32 id.
const ACL_ENTRY_LEN: usize = 8;

/// Anything else no file system takes.
fn is_acl(value: &[u8]) -> bool {
    value.strip_prefix(&2_u32.to_le_bytes()).is_some_and(|entries| entries.len() % ACL_ENTRY_LEN == 0)
}

/// An access list after `chmod` (acl(5), "Correspondence between ACL entries and file permission bits"). `None`
/// if it says no more than the mode: then no file system keeps it.
fn acl_of_mode(acl: &[u8], mode: u32) -> Option<Vec<u8>> {
    const USER_OBJ: u8 = 0x01;
    const GROUP_OBJ: u8 = 0x04;
    const MASK: u8 = 0x10;
    const OTHER: u8 = 0x20;
    let mut acl = acl.to_vec();
    let entries = acl.get_mut(ACL_HEADER_LEN..)?;
    let has_mask = entries.chunks_exact(ACL_ENTRY_LEN).any(|entry| entry[0] == MASK);
    let mut extended = false;
    for entry in entries.chunks_exact_mut(ACL_ENTRY_LEN) {
        let bits = match entry[0] {
            USER_OBJ => mode >> 6,
            GROUP_OBJ if !has_mask => mode >> 3,
            MASK => mode >> 3,
            OTHER => mode,
            GROUP_OBJ => continue,
            _ => {
                extended = true;
                continue;
            }
        };
        let [low, ..] = (bits & 0o7).to_le_bytes();
        (entry[2], entry[3]) = (low, 0);
    }
    (extended || has_mask).then_some(acl)
}

#[cfg(test)]
mod tests {
    use super::super::Text;
    use super::*;
    use crate::EntryPath;

    fn attributes(kind: EntryKind, mode: u32, mtime: Timestamp, xattrs: &[(&str, &[u8])]) -> Attributes {
        let xattrs =
            xattrs.iter().map(|(name, value)| Xattr { name: name.as_bytes().into(), value: (*value).into() });
        let path = EntryPath::root();
        Attributes::of(Entry { path, kind, mode, uid: 0, gid: 0, mtime, xattrs: xattrs.collect() })
    }

    #[test]
    fn times_that_an_unpacker_cannot_write_are_0() {
        for (seconds, nanoseconds, kept) in [
            (0, 0, true),
            (-1, 999_999_999, false),
            (i64::MIN, 0, false),
            (9_223_372_036, 854_775_807, true),
            (9_223_372_036, 854_775_808, false),
            (9_223_372_037, 0, false),
            (i64::MAX, 0, false),
        ] {
            let time = Timestamp { seconds, nanoseconds };
            let shown = attributes(EntryKind::Fifo, 0, time, &[]).mtime;
            assert_eq!(shown, if kept { time } else { Timestamp::default() }, "{time:?}");
        }
    }

    #[test]
    fn attributes_that_an_unpacker_skips_are_left_out() {
        let acl = [2, 0, 0, 0, 2, 0, 6, 0, 232, 3, 0, 0];
        let long = format!("user.{}", "n".repeat(251));
        let large = vec![0; XATTR_SIZE_MAX + 1];
        let all: Vec<(&str, &[u8])> = vec![
            ("nodot", b"1"),
            ("other.name", b"1"),
            ("security.", b"1"),
            ("security.capability", b"1"),
            ("system.other", b"1"),
            ("system.posix_acl_access", &acl),
            ("system.posix_acl_default", b"junk"),
            ("trusted.overlay.opaque", b"y"),
            ("trusted.mine", b"1"),
            ("user.", b"1"),
            ("user.a", b""),
            ("user.large", &large),
            (&long, b"1"),
            ("user.overlay.opaque", b"y"),
        ];
        let shown = |kind| {
            let shown = attributes(kind, 0, Timestamp::default(), &all).xattrs;
            shown.iter().map(|x| String::from_utf8_lossy(&x.name).into_owned()).collect::<Vec<_>>()
        };
        let of_files = ["security.capability", "system.posix_acl_access", "user.a"];
        assert_eq!(shown(EntryKind::Directory), of_files);
        assert_eq!(shown(EntryKind::Fifo), of_files[..2]);
        assert_eq!(shown(EntryKind::Symlink { target: b"t"[..].into() }), of_files[..2]);
    }

    #[test]
    fn access_lists_follow_the_mode() {
        let of = |entries: &[(u8, u8)]| {
            let entries = entries.iter().flat_map(|&(tag, bits)| [tag, 0, bits, 0, 255, 255, 255, 255]);
            [2, 0, 0, 0].into_iter().chain(entries).collect::<Vec<u8>>()
        };
        let [user, named, group, mask, other] = [0x01, 0x02, 0x04, 0x10, 0x20];
        let given = of(&[(user, 0), (named, 7), (group, 5), (mask, 7), (other, 7)]);
        let fitted = of(&[(user, 6), (named, 7), (group, 5), (mask, 4), (other, 0)]);
        assert_eq!(acl_of_mode(&given, 0o640), Some(fitted));
        let unmasked = of(&[(user, 0), (named, 7), (group, 5), (other, 7)]);
        assert_eq!(acl_of_mode(&unmasked, 0o640), Some(of(&[(user, 6), (named, 7), (group, 4), (other, 0)])));
        assert_eq!(acl_of_mode(&of(&[(user, 6), (group, 4), (other, 0)]), 0o640), None);
    }

    #[test]
    fn a_symbolic_link_has_one_mode_also_when_it_is_linked() {
        let symlink = EntryKind::Symlink { target: b"t"[..].into() };
        let mut link = attributes(symlink, 0o600, Timestamp::default(), &[]);
        assert_eq!(link.mode, 0o777);
        let hard = EntryKind::HardLink { target: EntryPath::root() };
        link.update(
            attributes(hard, 0o644, Timestamp::default(), &[("user.a", b"1")]),
            &InodeKind::Symlink { target: Text::EMPTY },
        );
        assert_eq!((link.mode, link.xattrs.len()), (0o777, 0));
    }
}
