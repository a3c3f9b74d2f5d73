//! Whether two indexes show the same files.

use std::collections::HashMap;
use std::fmt;
use std::iter::Peekable;

use super::{Attributes, Child, FileContent, InodeId, InodeType, LaunchError, LaunchIndex, View};
use crate::{Timestamp, Xattr};

/// One respect in which a path is not the same in two indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path, without a leading slash; the root's is empty.
    pub path: Vec<u8>,
    /// The respect.
    pub what: What,
}

/// What is different, as it is in the first index and in the second.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum What {
    /// The second has no such path.
    OnlyInFirst,
    /// The first has none.
    OnlyInSecond,
    Type(InodeType, InodeType),
    Mode(u32, u32),
    Owner((u32, u32), (u32, u32)),
    Size(u64, u64),
    Mtime(Timestamp, Timestamp),
    Links(u32, u32),
    Xattrs(Vec<Xattr>, Vec<Xattr>),
    /// Where the bytes are.
    Content(Box<(FileContent, FileContent)>),
    /// Of a symbolic link.
    Target(Vec<u8>, Vec<u8>),
    /// In one of them, it is another name of a file that it is not in the other.
    File,
}

/// Compares what the first `prefix` layers of two indexes show: names, attributes, extended attributes, link targets,
/// which names are one file, and where in which layer each byte of content is. Every difference goes to `sink`.
///
/// # Errors
/// One of them is malformed, or has fewer layers.
pub fn compare<A: AsRef<[u8]>, B: AsRef<[u8]>>(
    first: &LaunchIndex<A>,
    second: &LaunchIndex<B>,
    prefix: u16,
    sink: &mut impl FnMut(Difference),
) -> Result<(), LaunchError> {
    let fewer = LaunchError::Malformed("fewer layers than asked for");
    let views = (first.view(prefix).ok_or(fewer.clone())?, second.view(prefix).ok_or(fewer)?);
    let mut pending = vec![(Vec::new(), views.0.root()?, views.1.root()?)];
    let (of_first, of_second) = (HashMap::new(), HashMap::new());
    let mut comparison = Comparison { first, second, views, of_first, of_second, sink };
    while let Some((path, one, other)) = pending.pop() {
        if comparison.inodes(&path, one, other)? {
            comparison.children(&path, one, other, &mut pending)?;
        }
    }
    Ok(())
}

struct Comparison<'c, A, B, S> {
    first: &'c LaunchIndex<A>,
    second: &'c LaunchIndex<B>,
    views: (View<'c, A>, View<'c, B>),
    /// What stood for each inode, in the other index, where it was first met.
    of_first: HashMap<InodeId, InodeId>,
    of_second: HashMap<InodeId, InodeId>,
    sink: &'c mut S,
}

type Pending = Vec<(Vec<u8>, InodeId, InodeId)>;

impl<A: AsRef<[u8]>, B: AsRef<[u8]>, S: FnMut(Difference)> Comparison<'_, A, B, S> {
    fn tell(&mut self, path: &[u8], what: What) {
        (self.sink)(Difference { path: path.to_owned(), what });
    }

    /// Pairs the children of two directories; what only one has is a difference.
    fn children(
        &mut self,
        path: &[u8],
        one: InodeId,
        other: InodeId,
        pending: &mut Pending,
    ) -> Result<(), LaunchError> {
        let before = pending.len();
        let mut ones = self.views.0.children(one, 0)?.peekable();
        let mut others = self.views.1.children(other, 0)?.peekable();
        loop {
            let names = (next_name(&mut ones)?, next_name(&mut others)?);
            let least = names.0.into_iter().chain(names.1).min();
            let Some(name) = least else { break };
            let path = [path, if path.is_empty() { b"" } else { b"/" }, name].concat();
            let one = if names.0 == least { ones.next().transpose()? } else { None };
            let other = if names.1 == least { others.next().transpose()? } else { None };
            match (one, other) {
                (Some(one), Some(other)) => pending.push((path, one.inode, other.inode)),
                (Some(_), None) => self.tell(&path, What::OnlyInFirst),
                _ => self.tell(&path, What::OnlyInSecond),
            }
        }
        // In order of name: the last is taken first.
        pending[before..].reverse();
        Ok(())
    }

    /// Compares all but the children; whether both are directories.
    fn inodes(&mut self, path: &[u8], one: InodeId, other: InodeId) -> Result<bool, LaunchError> {
        match (self.of_first.insert(one, other), self.of_second.insert(other, one)) {
            (None, None) => {}
            // Compared under another name.
            (Some(known), Some(_)) if known == other => return Ok(false),
            _ => self.tell(path, What::File),
        }
        let (ones, others) = (self.first.attributes(one)?, self.second.attributes(other)?);
        let xattrs = (self.first.xattrs(one)?, self.second.xattrs(other)?);
        different_attributes(&ones, &others).into_iter().for_each(|what| self.tell(path, what));
        if xattrs.0 != xattrs.1 {
            self.tell(path, What::Xattrs(xattrs.0, xattrs.1));
        }
        match (ones.kind, others.kind) {
            (InodeType::Directory, InodeType::Directory) => return Ok(true),
            (InodeType::Regular, InodeType::Regular) => {
                let contents = (self.first.content(one)?, self.second.content(other)?);
                if (contents.0.layer, &contents.0.extents) != (contents.1.layer, &contents.1.extents) {
                    self.tell(path, What::Content(Box::new(contents)));
                }
            }
            (InodeType::Symlink, InodeType::Symlink) => {
                let targets = (self.first.symlink_target(one)?, self.second.symlink_target(other)?);
                if targets.0 != targets.1 {
                    self.tell(path, What::Target(targets.0.to_owned(), targets.1.to_owned()));
                }
            }
            _ => {}
        }
        Ok(false)
    }
}

fn different_attributes(one: &Attributes, other: &Attributes) -> Vec<What> {
    let owners = ((one.uid, one.gid), (other.uid, other.gid));
    let differences = [
        (one.kind != other.kind).then_some(What::Type(one.kind, other.kind)),
        (one.mode != other.mode).then_some(What::Mode(one.mode, other.mode)),
        (owners.0 != owners.1).then_some(What::Owner(owners.0, owners.1)),
        (one.size != other.size).then_some(What::Size(one.size, other.size)),
        (one.mtime != other.mtime).then_some(What::Mtime(one.mtime, other.mtime)),
        (one.nlink != other.nlink).then_some(What::Links(one.nlink, other.nlink)),
    ];
    differences.into_iter().flatten().collect()
}

fn next_name<'i>(
    children: &mut Peekable<impl Iterator<Item = Result<Child<'i>, LaunchError>>>,
) -> Result<Option<&'i [u8]>, LaunchError> {
    match children.peek() {
        Some(Err(error)) => Err(error.clone()),
        Some(Ok(child)) => Ok(Some(child.name)),
        None => Ok(None),
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}: ", self.path.escape_ascii())?;
        match &self.what {
            What::OnlyInFirst => f.write_str("only in the first"),
            What::OnlyInSecond => f.write_str("only in the second"),
            What::Type(one, other) => write!(f, "type {one:?} and {other:?}"),
            What::Mode(one, other) => write!(f, "mode {one:04o} and {other:04o}"),
            What::Owner(one, other) => write!(f, "owner {}:{} and {}:{}", one.0, one.1, other.0, other.1),
            What::Size(one, other) => write!(f, "size {one} and {other}"),
            What::Mtime(one, other) => write!(f, "mtime {one:?} and {other:?}"),
            What::Links(one, other) => write!(f, "{one} and {other} links"),
            What::Xattrs(one, other) => write!(f, "{} and {} extended attributes", one.len(), other.len()),
            What::Content(_) => f.write_str("content in another place"),
            What::Target(one, other) => {
                write!(f, "target {} and {}", one.escape_ascii(), other.escape_ascii())
            }
            What::File => f.write_str("a name of another file"),
        }
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
