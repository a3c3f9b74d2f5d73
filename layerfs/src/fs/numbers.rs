//! Inode numbers: what everything here calls an inode of the index, and what keeps those that the kernel is told instead.
//!
//! Both are functions of the index alone, so another process that opens the same index answers for numbers that its
//! predecessor gave out.

use std::fmt;

use jaunt_formats::launch::InodeId;

/// Name of the chain's root directory within its mount, in [`RootPlace::Below`].
pub const ROOT_NAME: &str = "fs";
/// The mount's root directory, by the rules of FUSE.
pub const MOUNT_ROOT: Ino = Ino(1);
/// Inode `n` of the index has this number plus `n`.
pub(crate) const FIRST_INODE: u64 = 16;

/// An inode's number within a mounted chain. The kernel may know it by another ([`KernelNumbers`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

/// Where in its mount a chain's root directory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootPlace {
    /// The mount's root has one child, [`ROOT_NAME`], and that is it: containerd idmaps the parent of a lower
    /// directory, so there must be one.
    #[default]
    Below,
    /// It is the mount's root.
    AtMount,
}

/// What the kernel calls the inodes of one mount.
pub(crate) trait KernelNumbers: fmt::Debug + Send + Sync {
    /// What it is told.
    fn number(&self, ino: Ino) -> u64;

    /// What it means; an inode that is not there, if it was told no such number.
    fn ino(&self, number: u64) -> Ino;
}

/// The numbers of one mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) root: InodeId,
    pub(super) place: RootPlace,
}

impl Numbers {
    /// The number of an inode.
    pub(super) fn ino(self, inode: InodeId) -> Ino {
        match self.place {
            RootPlace::AtMount if inode == self.root => MOUNT_ROOT,
            _ => Ino(FIRST_INODE + u64::from(inode.0)),
        }
    }

    /// Whether the number is that of the directory that only holds [`ROOT_NAME`].
    pub(super) fn is_holder(self, ino: Ino) -> bool {
        self.place == RootPlace::Below && ino == MOUNT_ROOT
    }

    /// The inode behind a number, out of `count`.
    pub(super) fn inode(self, ino: Ino, count: usize) -> Option<InodeId> {
        if self.place == RootPlace::AtMount && ino == MOUNT_ROOT {
            return Some(self.root);
        }
        let number = u32::try_from(ino.0.checked_sub(FIRST_INODE)?).ok()?;
        ((number as usize) < count).then_some(InodeId(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_leads_back_to_its_inode() {
        for place in [RootPlace::Below, RootPlace::AtMount] {
            let numbers = Numbers { root: InodeId(3), place };
            for inode in (0..10).map(InodeId) {
                assert_eq!(numbers.inode(numbers.ino(inode), 10), Some(inode), "{place:?}");
            }
            assert_eq!(numbers.inode(Ino(FIRST_INODE + 10), 10), None);
            assert_eq!(numbers.inode(Ino(2), 10), None);
            assert_eq!(numbers.inode(Ino(u64::MAX), 10), None);
        }
    }

    #[test]
    fn the_mounts_root_is_the_holder_or_the_chains_root() {
        let below = Numbers { root: InodeId(3), place: RootPlace::Below };
        assert!(below.is_holder(MOUNT_ROOT) && below.inode(MOUNT_ROOT, 10).is_none());
        let at_mount = Numbers { place: RootPlace::AtMount, ..below };
        assert!(!at_mount.is_holder(MOUNT_ROOT));
        assert_eq!(at_mount.ino(InodeId(3)), MOUNT_ROOT);
    }
}
