//! Compares two trees entry by entry, in everything a program could notice.
//!
//! Type, mode, owner, size, mtime in nanoseconds, link count, link target, device number, extended attributes,
//! SHA-256 of the content, and which names are one file. `trusted.overlay.*` is left out: it is how
//! overlayfs writes down its own whiteouts, and shows only where a single layer is bind-mounted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{At as _, Result};

/// More attributes than any file system gives a file, and room for the largest value.
const XATTR_ROOM: usize = 64 * 1024;
/// Bytes read at once.
const READ_ROOM: usize = 256 * 1024;

/// One entry as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    size: Option<u64>,
    mtime: (i64, i64),
    links: u64,
    link: Option<PathBuf>,
    device: Option<u64>,
    xattrs: BTreeMap<String, Vec<u8>>,
    content: Option<String>,
    /// The first path that is the same file, where there are several.
    same_as: Option<PathBuf>,
}

/// A tree by relative path; the root is the empty path.
pub type Tree = BTreeMap<PathBuf, Seen>;

/// Reads a whole tree. An unreadable entry is an error that names it.
pub fn read(root: &Path) -> Result<Tree> {
    let mut paths = Vec::new();
    list(root, Path::new(""), &mut paths)?;
    paths.sort();
    let mut first_names = BTreeMap::new();
    paths
        .into_iter()
        .map(|path| {
            let full = root.join(&path);
            let metadata = fs::symlink_metadata(&full).at(&full)?;
            let inode = (metadata.dev(), metadata.ino());
            let linked = !metadata.is_dir() && metadata.nlink() > 1;
            let same_as = linked.then(|| first_names.entry(inode).or_insert_with(|| path.clone()).clone());
            Ok((path, see(&full, &metadata, same_as).at(&full)?))
        })
        .collect()
}

/// One line a difference, each with both values; nothing when the trees are the same.
pub fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, a) in left {
        match right.get(path) {
            None => found.push(format!("/{}: only on the left: {a:?}", path.display())),
            Some(b) => fields(path, a, b, &mut found),
        }
    }
    let added = right.iter().filter(|(path, _)| !left.contains_key(*path));
    found.extend(added.map(|(path, b)| format!("/{}: only on the right: {b:?}", path.display())));
    found
}

fn fields(path: &Path, a: &Seen, b: &Seen, found: &mut Vec<String>) {
    macro_rules! compare {
        ($($field:ident),*) => {$(
            if a.$field != b.$field {
                let name = stringify!($field);
                found.push(format!("/{}: {name}: {:?} against {:?}", path.display(), a.$field, b.$field));
            }
        )*};
    }
    compare!(kind, mode, owner, size, mtime, links, link, device, xattrs, content, same_as);
}

fn list(root: &Path, relative: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    paths.push(relative.to_owned());
    let dir = root.join(relative);
    if !fs::symlink_metadata(&dir).at(&dir)?.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&dir).at(&dir)? {
        list(root, &relative.join(entry.at(&dir)?.file_name()), paths)?;
    }
    Ok(())
}

fn see(path: &Path, metadata: &fs::Metadata, same_as: Option<PathBuf>) -> io::Result<Seen> {
    let file_type = metadata.file_type();
    let device = file_type.is_char_device() || file_type.is_block_device();
    Ok(Seen {
        kind: match () {
            () if file_type.is_dir() => "directory",
            () if file_type.is_file() => "file",
            () if file_type.is_symlink() => "symlink",
            () if file_type.is_char_device() => "character device",
            () if file_type.is_block_device() => "block device",
            () if file_type.is_fifo() => "fifo",
            () => "socket",
        },
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        // A directory's size is the file system's own affair.
        size: (!file_type.is_dir()).then(|| metadata.size()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        links: metadata.nlink(),
        link: file_type.is_symlink().then(|| fs::read_link(path)).transpose()?,
        device: device.then(|| metadata.rdev()),
        xattrs: xattrs(path)?,
        content: file_type.is_file().then(|| digest(path)).transpose()?,
        same_as,
    })
}

fn digest(path: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; READ_ROOM];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            len => hasher.update(&buffer[..len]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut buffer = vec![0; XATTR_ROOM];
    let len = match rustix::fs::llistxattr(path, &mut buffer) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        listed => listed?,
    };
    let names: Vec<Vec<u8>> =
        buffer[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    let mut all = BTreeMap::new();
    for name in names.iter().filter(|name| !name.starts_with(b"trusted.overlay.")) {
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut buffer)?;
        all.insert(String::from_utf8_lossy(name).into_owned(), buffer[..len].to_vec());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    /// Each change is seen, and nothing else is.
    #[test]
    fn every_kind_of_difference_is_named() {
        let scratch = Scratch::new().unwrap();
        let (left, right) = (scratch.dir("left").unwrap(), scratch.dir("right").unwrap());
        for dir in [&left, &right] {
            fs::create_dir(dir.join("d")).unwrap();
            fs::write(dir.join("d/f"), "text").unwrap();
            fs::write(dir.join("x"), "one").unwrap();
            std::os::unix::fs::symlink("d/f", dir.join("s")).unwrap();
            for file in ["d/f", "x", "d", ""] {
                File::open(dir.join(file)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        }
        let same_times = |dir: &Path| {
            let mut tree = read(dir).unwrap();
            tree.values_mut().filter(|seen| seen.kind == "symlink").for_each(|seen| seen.mtime = (0, 0));
            tree
        };
        assert_eq!(differences(&same_times(&left), &same_times(&right)), Vec::<String>::new());

        fs::write(right.join("x"), "two").unwrap();
        fs::hard_link(right.join("d/f"), right.join("g")).unwrap();
        let found = differences(&same_times(&left), &same_times(&right)).join("\n");
        for wanted in ["/x: content: ", "/x: mtime: ", "/d/f: same_as: None against", "/g: only on the right"]
        {
            assert!(found.contains(wanted), "{wanted} not in {found}");
        }
        assert!(!found.contains("/s:") && !found.contains("only on the left"), "{found}");
    }
}
