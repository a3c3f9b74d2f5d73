//! Inode numbers as the kernel is told them: those that the chain has in its image once it is complete ([`Numbers`]).
//! So a container sees the same ones, whichever of the two it is started over.
//!
//! A kernel keeps the numbers of a mount, and asks whoever serves it by them. So each connection has [`Numbering`] on record, and
//! mounts of programs from before there was a choice are served under the numbers that those gave out.

use std::sync::Arc;

use fuser::INodeNo;
use jaunt_formats::launch::InodeId;

use super::init::InitError;
use crate::erofs::{Nid, Numbers};
use crate::fs::{FIRST_INODE, Ino, KernelNumbers, LayerFs};

/// Which numbers the kernel was told on a connection. Programs to come may have others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbering(pub(super) u16);

impl Numbering {
    /// Inode `n` of the index has 16 + n.
    pub const BY_INDEX: Self = Self(0);
    /// It has its place in the chain's image.
    pub const BY_IMAGE: Self = Self(1);
}

/// The numbers of one mount, in both directions. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Told(Arc<dyn KernelNumbers>);

impl Told {
    /// Those by which the file system is served; of a mount that nobody has served yet, those of its image.
    pub(super) fn new(fs: &LayerFs) -> Self {
        Self(fs.kernel_numbers(|| Arc::new(ByImage(Numbers::of(fs.index())))))
    }

    /// The same where a connection has them on record. A file system is served on one connection.
    ///
    /// # Errors
    /// This program knows of no such numbers.
    pub(super) fn on(fs: &LayerFs, numbering: Numbering) -> Result<Self, InitError> {
        match numbering {
            Numbering::BY_INDEX => Ok(Self(fs.kernel_numbers(|| Arc::new(ByIndex)))),
            Numbering::BY_IMAGE => Ok(Self::new(fs)),
            Numbering(unknown) => Err(InitError::Numbering(unknown)),
        }
    }

    /// What the kernel is told.
    pub(super) fn number(&self, ino: Ino) -> INodeNo {
        INodeNo(self.0.number(ino))
    }

    /// What the kernel means; an inode that is not there, if it was told no such number.
    pub(super) fn ino(&self, number: INodeNo) -> Ino {
        self.0.ino(number.0)
    }
}

/// [`Numbering::BY_INDEX`].
#[derive(Debug)]
struct ByIndex;

impl KernelNumbers for ByIndex {
    fn number(&self, ino: Ino) -> u64 {
        ino.0
    }

    fn ino(&self, number: u64) -> Ino {
        Ino(number)
    }
}

/// [`Numbering::BY_IMAGE`]. Below [`FIRST_INODE`] are numbers that no index has: nothing, and the mount's root.
#[derive(Debug)]
struct ByImage(Numbers);

impl KernelNumbers for ByImage {
    fn number(&self, ino: Ino) -> u64 {
        let inode = ino.0.checked_sub(FIRST_INODE).and_then(|number| u32::try_from(number).ok());
        inode.map_or(ino.0, |inode| self.0.nid(InodeId(inode)).0)
    }

    fn ino(&self, number: u64) -> Ino {
        match self.0.inode(Nid(number)) {
            Some(inode) => Ino(FIRST_INODE + u64::from(inode.0)),
            None if number < FIRST_INODE => Ino(number),
            None => Ino(0),
        }
    }
}
