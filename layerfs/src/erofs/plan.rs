//! Where everything of a tree goes in its image, before a byte is written.
//!
//! Directories in the order of the tree, breadth first, each followed by what it holds: a listing with attributes reads
//! on. The same tree gives the same plan, on every node.

use jaunt_formats::launch::{Attributes, FileContent, InodeId, InodeType, LaunchIndex, View};

use super::ImageError;
use super::devices::Devices;
use super::directory::{Measure, check_name};
use super::layout::{BLOCK, CHUNK_LEN, INODE_LEN, SLOT};
use super::xattrs;
use crate::fs::ROOT_NAME;

/// An image has at most so many bytes: as many as a launch index.
const MAX_LEN: u64 = 1 << 30;
/// Linux allows no longer target of a symbolic link.
const MAX_TARGET: u64 = 4095;

/// A tree, laid out.
pub(super) struct Plan<'i, 'l, B> {
    pub index: &'i LaunchIndex<B>,
    pub view: View<'i, B>,
    pub devices: Devices<'l>,
    pub nodes: Vec<Node>,
    /// By inode of the index: its node's number, and 1; 0 for what this tree does not show.
    node_of: Vec<u32>,
    /// Where the inodes end.
    pub end: u64,
    /// Blocks behind them.
    pub blocks: u64,
}

/// An inode of the image.
pub(super) struct Node {
    /// Nothing for the directory that only holds the chain's root.
    pub inode: Option<InodeId>,
    /// Its place behind the first inode's.
    pub at: u64,
    /// The node of the directory above; of a directory alone.
    pub parent: usize,
    pub xattr_len: u64,
    pub form: Form,
}

/// Where its content is.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Nowhere,
    /// In other devices; chunks follow the inode.
    Chunks,
    /// Behind the inode.
    Inline {
        len: u64,
    },
    /// In blocks of the image, counted from the end of the inodes.
    Blocks {
        first: u64,
        len: u64,
    },
}

/// A name in a directory, and the node that it leads to.
pub(super) type Named<'i> = (&'i [u8], usize);

impl<'i, 'l, B: AsRef<[u8]>> Plan<'i, 'l, B> {
    /// The first `prefix` layers of an index; `below` a directory of its own if that is asked for.
    pub(super) fn new(
        index: &'i LaunchIndex<B>,
        prefix: u16,
        below: bool,
        devices: Devices<'l>,
    ) -> Result<Self, ImageError> {
        let view = index.view(prefix).ok_or(ImageError::Malformed("fewer layers than asked for"))?;
        let node_of = vec![0; index.inode_count()];
        let mut plan = Self { index, view, devices, nodes: Vec::new(), node_of, end: 0, blocks: 0 };
        if below {
            let mut measure = Measure::default();
            [&b"."[..], b"..", ROOT_NAME.as_bytes()].into_iter().for_each(|name| measure.add(name));
            plan.put(None, 0, 0, measure.len())?;
        }
        plan.place(plan.view.root()?, 0)?;
        let mut next = usize::from(below);
        while let Some(node) = plan.nodes.get(next) {
            if let Some(dir) = node.inode.filter(|&inode| plan.is_directory(inode)) {
                for child in plan.view.children(dir, 0)? {
                    let child = child?.inode;
                    match plan.node(child) {
                        None => plan.place(child, next)?,
                        Some(_) if plan.is_directory(child) => {
                            return Err(ImageError::Malformed("a directory has two names"));
                        }
                        Some(_) => {}
                    }
                }
            }
            next += 1;
        }
        Ok(plan)
    }

    /// What a directory holds, sorted, with itself and the one above.
    pub(super) fn names(&self, node: usize) -> Result<Vec<Named<'i>>, ImageError> {
        let parent = self.nodes.get(node).map_or(0, |node| node.parent);
        let mut names = vec![(&b"."[..], node), (b"..", parent)];
        match self.nodes.get(node).and_then(|node| node.inode) {
            None => names.push((ROOT_NAME.as_bytes(), 1)),
            Some(dir) => {
                for child in self.view.children(dir, 0)? {
                    let child = child?;
                    let node = self.node(child.inode).ok_or(ImageError::Malformed("a name leads nowhere"))?;
                    names.push((child.name, node));
                }
            }
        }
        // Nearly sorted: only the first two are out of place, behind names like `#` and `+`.
        names.sort_by_key(|(name, _)| *name);
        Ok(names)
    }

    /// A regular file's content, where it has any.
    pub(super) fn content(&self, inode: InodeId) -> Result<FileContent, ImageError> {
        Ok(self.index.content(inode)?)
    }

    fn node(&self, inode: InodeId) -> Option<usize> {
        let node = *self.node_of.get(inode.0 as usize)?;
        usize::try_from(node.checked_sub(1)?).ok()
    }

    fn is_directory(&self, inode: InodeId) -> bool {
        self.index.attributes(inode).is_ok_and(|attributes| attributes.kind == InodeType::Directory)
    }

    fn place(&mut self, inode: InodeId, parent: usize) -> Result<(), ImageError> {
        let attributes = self.index.attributes(inode)?;
        let xattr_len = xattrs::encode(&self.index.xattrs(inode)?)?.len() as u64;
        match attributes.kind {
            InodeType::Regular if attributes.size > 0 => {
                let chunks = self.devices.chunks(&self.index.content(inode)?)?.list.len() as u64;
                let at = self.reserve(INODE_LEN, 0)?;
                self.end = (self.end + xattr_len).next_multiple_of(CHUNK_LEN) + chunks * CHUNK_LEN;
                self.push(Node { inode: Some(inode), at, parent, xattr_len, form: Form::Chunks })
            }
            InodeType::Directory => {
                let len = self.measure(inode)?;
                self.put(Some(inode), parent, xattr_len, len)
            }
            InodeType::Symlink => {
                check_target(&attributes, self.index.symlink_target(inode)?)?;
                self.put(Some(inode), parent, xattr_len, attributes.size)
            }
            _ => self.put(Some(inode), parent, xattr_len, 0),
        }
    }

    fn measure(&self, dir: InodeId) -> Result<u64, ImageError> {
        let mut dots = [&b"."[..], b".."].into_iter().peekable();
        let (mut measure, mut before) = (Measure::default(), None);
        for child in self.view.children(dir, 0)? {
            let name = child?.name;
            check_name(before, name)?;
            while let Some(dot) = dots.next_if(|dot| *dot < name) {
                measure.add(dot);
            }
            measure.add(name);
            before = Some(name);
        }
        dots.for_each(|dot| measure.add(dot));
        Ok(measure.len())
    }

    /// An inode with content in the image: inline where that fits into its block.
    fn put(
        &mut self,
        inode: Option<InodeId>,
        parent: usize,
        xattr_len: u64,
        len: u64,
    ) -> Result<(), ImageError> {
        let core = INODE_LEN + xattr_len;
        let is_inline = len > 0 && core + len <= BLOCK;
        let at = self
            .reserve(if is_inline { core + len } else { INODE_LEN }, if is_inline { 0 } else { xattr_len })?;
        let form = match len {
            0 => Form::Nowhere,
            _ if is_inline => Form::Inline { len },
            _ => {
                let first = self.blocks;
                self.blocks += len.div_ceil(BLOCK);
                Form::Blocks { first, len }
            }
        };
        self.push(Node { inode, at, parent, xattr_len, form })
    }

    /// Room for what must not cross a block, and for what may.
    fn reserve(&mut self, together: u64, behind: u64) -> Result<u64, ImageError> {
        let slot = self.end.next_multiple_of(SLOT);
        let crosses = slot % BLOCK + together > BLOCK;
        let at = if crosses { slot.next_multiple_of(BLOCK) } else { slot };
        self.end = at + together + behind;
        if self.end + self.blocks * BLOCK > MAX_LEN {
            return Err(ImageError::Unfit("a tree that takes more than 1 GiB"));
        }
        Ok(at)
    }

    fn push(&mut self, node: Node) -> Result<(), ImageError> {
        let number = u32::try_from(self.nodes.len() + 1).map_err(|_| ImageError::Unfit("too many inodes"))?;
        if let Some(place) = node.inode.and_then(|inode| self.node_of.get_mut(inode.0 as usize)) {
            *place = number;
        }
        self.nodes.push(node);
        Ok(())
    }
}

fn check_target(attributes: &Attributes, target: &[u8]) -> Result<(), ImageError> {
    let sound = (1..=MAX_TARGET).contains(&attributes.size) && !target.contains(&0);
    if sound { Ok(()) } else { Err(ImageError::Malformed("a symbolic link leads to what is no path")) }
}
