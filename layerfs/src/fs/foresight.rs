//! What is worth fetching before a reader asks for it, by what he has read.
//!
//! Of what an image's boot pack holds nothing is: what a start reads beyond that would be in it. One that goes on beyond it
//! misses, and is read ahead of like any other.

use std::ops::Range;

use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::stretch::{Stretch, stretches};
use super::{Ino, LayerFs, programs};

impl LayerFs {
    /// Notes a read; what is worth fetching ahead of its reader, as something to be run, if he reads in sequence.
    pub fn ahead(
        &self,
        inode: Ino,
        offset: u64,
        len: u32,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let read = offset..offset.saturating_add(len.into());
        if self.is_foreseen(inode, read.clone()) {
            return None;
        }
        let ahead = self.streams.note(inode.0, read)?;
        let end = ahead.end;
        Some(self.streams.fetching(inode.0, end, self.fetches(inode, &[ahead])?))
    }

    /// Notes what a file was found to begin with; what its loader touches next, as something to be run, if it is a program.
    pub fn loading(
        &self,
        inode: Ino,
        offset: u64,
        bytes: &[u8],
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let parts = (offset == 0).then(|| programs::loaded_first(bytes))??;
        self.programs.note(inode.0);
        if self.is_foreseen(inode, 0..bytes.len() as u64) {
            return None;
        }
        self.fetches(inode, &parts)
    }

    /// Fetches of what is missing of some ranges of a file, which may lie beyond it; `None` where nothing is.
    fn fetches(&self, inode: Ino, ranges: &[Range<u64>]) -> Option<impl Future<Output = ()> + Send + use<>> {
        let content = self.index.content(self.inode(inode).ok()?).ok()?;
        let layer = self.layer(content.layer).ok()?;
        self.streams.set_most(layer.worth_ahead());
        let cut = |range: &Range<u64>| stretches(&content.extents, range.start..range.end.min(content.size));
        let fetches = ranges.iter().flat_map(cut).filter_map(|stretch| match stretch {
            Stretch::Tar(range) if !self.is_packed(content.layer, &range) => layer.ahead(&range),
            Stretch::Tar(_) | Stretch::Zeros(_) => None,
        });
        let fetches: Vec<_> = fetches.collect();
        (!fetches.is_empty()).then(|| join_all(fetches).map(drop))
    }
}

#[cfg(test)]
#[path = "foresight_tests.rs"]
mod tests;
