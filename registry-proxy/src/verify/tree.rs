//! The tree of a launch index against the one that the layers' tars give, entry by entry.

use std::collections::BTreeMap;

use jaunt_formats::launch::{Attributes, InodeId, InodeType, LaunchError, LaunchIndex, View};

use super::tail::{mode, time, xattrs};
use crate::finding::{Check, Finding, Findings};

type Index = LaunchIndex<Vec<u8>>;

/// Tells where two indexes whose bytes differ do. Both were checked.
pub fn compare(rebuilt: &Index, given: &Index, findings: &mut Findings) -> Result<(), LaunchError> {
    let before = findings.count();
    // The whole image first: what is wrong there mostly is wrong in the prefixes, too.
    for prefix in (1..=u16::try_from(given.layers().len()).unwrap_or(u16::MAX)).rev() {
        if let (Some(of_rebuilt), Some(of_given)) = (rebuilt.view(prefix), given.view(prefix)) {
            let pair = Pair { rebuilt, given, of_rebuilt, of_given, prefix };
            pair.walk(findings)?;
        }
        if findings.count() > before {
            return Ok(());
        }
    }
    findings.push(Finding::new(
        Check::Tree,
        "the launch index is not the one that the layers' tars give, though each path in it is",
    ));
    Ok(())
}

struct Pair<'i> {
    rebuilt: &'i Index,
    given: &'i Index,
    of_rebuilt: View<'i, Vec<u8>>,
    of_given: View<'i, Vec<u8>>,
    prefix: u16,
}

impl Pair<'_> {
    fn walk(&self, findings: &mut Findings) -> Result<(), LaunchError> {
        let mut left = vec![(Vec::new(), self.of_rebuilt.root()?, self.of_given.root()?)];
        while let Some((path, rebuilt, given)) = left.pop() {
            if !self.same_inode(&path, rebuilt, given, findings)? {
                continue;
            }
            let (mut wanted, present) =
                (children(&self.of_rebuilt, rebuilt)?, children(&self.of_given, given)?);
            for (name, given) in present {
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                match wanted.remove(name) {
                    Some(rebuilt) => left.push((path, rebuilt, given)),
                    None => findings.push(self.finding(&path, "it is in the launch index, and in no tar")),
                }
            }
            for name in wanted.into_keys() {
                let path = [&path[..], if path.is_empty() { b"" } else { b"/" }, name].concat();
                findings.push(self.finding(&path, "it is missing in the launch index"));
            }
        }
        Ok(())
    }

    /// Compares all but the children; whether both are directories.
    fn same_inode(
        &self,
        path: &[u8],
        rebuilt: InodeId,
        given: InodeId,
        findings: &mut Findings,
    ) -> Result<bool, LaunchError> {
        let (wanted, found) = (self.rebuilt.attributes(rebuilt)?, self.given.attributes(given)?);
        let mut differ = |field, wanted: String, found: String| {
            if wanted != found {
                let finding = self.finding(path, "the launch index has").of_field(field);
                findings.push(finding.values(wanted, found));
            }
        };
        for ((field, wanted), (_, found)) in fields(&wanted).into_iter().zip(fields(&found)) {
            differ(field, wanted, found);
        }
        differ("xattrs", xattrs(&self.rebuilt.xattrs(rebuilt)?), xattrs(&self.given.xattrs(given)?));
        match (wanted.kind, found.kind) {
            (InodeType::Regular, InodeType::Regular) => {
                let content = |index: &Index, inode| {
                    let content = index.content(inode)?;
                    Ok::<_, LaunchError>(format!("layer {}, {:?}", content.layer, content.extents))
                };
                differ("content", content(self.rebuilt, rebuilt)?, content(self.given, given)?);
            }
            (InodeType::Symlink, InodeType::Symlink) => {
                let target = |index: &Index, inode| {
                    Ok::<_, LaunchError>(index.symlink_target(inode)?.escape_ascii().to_string())
                };
                differ("target", target(self.rebuilt, rebuilt)?, target(self.given, given)?);
            }
            _ => {}
        }
        Ok((wanted.kind, found.kind) == (InodeType::Directory, InodeType::Directory))
    }

    fn finding(&self, path: &[u8], what: &str) -> Finding {
        let whole = usize::from(self.prefix) == self.given.layers().len();
        let of = if whole { String::new() } else { format!("of the first {} layers: ", self.prefix) };
        Finding::new(Check::Tree, format!("{of}{what}")).of_path(path)
    }
}

fn fields(attributes: &Attributes) -> [(&'static str, String); 6] {
    [
        ("type", format!("{:?}", attributes.kind)),
        ("mode", mode(attributes.mode)),
        ("owner", format!("{}:{}", attributes.uid, attributes.gid)),
        ("size", attributes.size.to_string()),
        ("mtime", time(attributes.mtime)),
        ("links", attributes.nlink.to_string()),
    ]
}

fn children<'i>(view: &View<'i, Vec<u8>>, dir: InodeId) -> Result<BTreeMap<&'i [u8], InodeId>, LaunchError> {
    view.children(dir, 0)?.map(|child| child.map(|child| (child.name, child.inode))).collect()
}
