//! Where everything of a tree goes in its image, before a byte is written.
//!
//! Inodes lie where their numbers say ([`Numbers`]), and what they hold of directories in the order of the tree, breadth first.
//! The same tree gives the same plan, on every node.

use jaunt_formats::launch::{Attributes, FileContent, InodeId, InodeType, LaunchIndex, View};

use super::ImageError;
use super::devices::Devices;
use super::directory::{Measure, check_name};
use super::layout::{BLOCK, INODE_LEN, SLOT};
use super::numbers::{Numbers, ROOM, ROOT, ROOT_ROOM, core_len};
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
    numbers: Numbers,
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
    /// Its place, counted from where number 0 would be.
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
        let numbers = Numbers::of(index);
        let mut plan = Self { index, view, devices, numbers, nodes: Vec::new(), node_of, end: 0, blocks: 0 };
        if below {
            let mut measure = Measure::default();
            [&b"."[..], b"..", ROOT_NAME.as_bytes()].into_iter().for_each(|name| measure.add(name));
            let form = plan.form(ROOT_ROOM - INODE_LEN, measure.len());
            plan.push(Node { inode: None, at: ROOT.0 * SLOT, parent: 0, xattr_len: 0, form }, ROOT_ROOM)?;
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
        let chunks = match attributes.kind {
            // Every device has its number before anything is written.
            InodeType::Regular if attributes.size > 0 => {
                self.devices.chunks(&self.index.content(inode)?)?.list.len() as u64
            }
            _ => 0,
        };
        let core = core_len(xattr_len, chunks);
        let (at, room) = match (self.nodes.is_empty(), self.numbers.large(inode)) {
            (true, _) => (ROOT, ROOT_ROOM),
            (false, Some(nid)) => (nid, core),
            (false, None) => (self.numbers.nid(inode), ROOM),
        };
        let form = match attributes.kind {
            InodeType::Regular if chunks > 0 => Form::Chunks,
            InodeType::Directory => self.form(room - core.min(room), self.measure(inode)?),
            InodeType::Symlink => {
                check_target(&attributes, self.index.symlink_target(inode)?)?;
                self.form(room - core.min(room), attributes.size)
            }
            _ => Form::Nowhere,
        };
        if core > room {
            return Err(ImageError::Unfit("a root with long extended attributes"));
        }
        self.push(Node { inode: Some(inode), at: at.0 * SLOT, parent, xattr_len, form }, room)
    }

    /// Where so much content goes: behind its inode, where there is room.
    fn form(&mut self, room: u64, len: u64) -> Form {
        match len {
            0 => Form::Nowhere,
            _ if len <= room => Form::Inline { len },
            _ => {
                let first = self.blocks;
                self.blocks += len.div_ceil(BLOCK);
                Form::Blocks { first, len }
            }
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

    fn push(&mut self, node: Node, room: u64) -> Result<(), ImageError> {
        let number = u32::try_from(self.nodes.len() + 1).map_err(|_| ImageError::Unfit("too many inodes"))?;
        self.end = self.end.max(node.at.saturating_add(room));
        if self.end.saturating_add(self.blocks.saturating_mul(BLOCK)) > MAX_LEN {
            return Err(ImageError::Unfit("a tree that takes more than 1 GiB"));
        }
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
