//! Inode numbers as the kernel is told them: those that the chain has in its image once it is complete ([`Numbers`]).
//! So a container sees the same ones, whichever of the two it is started over.

use fuser::INodeNo;
use jaunt_formats::launch::InodeId;

use crate::erofs::{Nid, Numbers};
use crate::fs::{Ino, LayerFs};

/// What [`LayerFs`] calls inode 0 of an index. Below are numbers that no index has: nothing, and the mount's root.
const FIRST: u64 = 16;

/// The numbers of one mount, in both directions.
#[derive(Debug)]
pub(super) struct Told(Numbers);

impl Told {
    pub(super) fn new(fs: &LayerFs) -> Self {
        Self(Numbers::of(fs.index()))
    }

    /// What the kernel is told.
    pub(super) fn number(&self, ino: Ino) -> INodeNo {
        let inode = ino.0.checked_sub(FIRST).and_then(|number| u32::try_from(number).ok());
        INodeNo(inode.map_or(ino.0, |inode| self.0.nid(InodeId(inode)).0))
    }

    /// What the kernel means; an inode that is not there, if it was told no such number.
    pub(super) fn ino(&self, number: INodeNo) -> Ino {
        match self.0.inode(Nid(number.0)) {
            Some(inode) => Ino(FIRST + u64::from(inode.0)),
            None if number.0 < FIRST => Ino(number.0),
            None => Ino(0),
        }
    }
}
