//! What is mounted where, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)), without touching any of it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use jaunt_layerfs::erofs;
use jaunt_layerfs::fuse::mount::FS_TYPE;

const TABLE: &str = "/proc/self/mountinfo";

/// Mounts of the kinds that we make strictly below `directory` (canonical), in the order of mounting.
pub(crate) fn below(directory: &Path) -> io::Result<Vec<Mount>> {
    let table = std::fs::read(TABLE)?;
    let ours = mounts(&table).filter(|mount| mount.is_ours() || mount.fs_type == erofs::FS_TYPE);
    Ok(ours.filter(|mount| mount.point != directory && mount.point.starts_with(directory)).collect())
}

/// What is mounted on `point` (canonical): the topmost mount, if there is one.
pub(crate) fn mounted_on(point: &Path) -> io::Result<Option<Mount>> {
    let table = std::fs::read(TABLE)?;
    Ok(mounts(&table).filter(|mount| mount.point == point).last())
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    pub(crate) fs_type: String,
    /// Minor number of its device. The major one of file systems without a disk is 0.
    pub(crate) minor: u32,
}

impl Mount {
    /// Whether it is one of Jaunt's.
    pub(crate) fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// `36 35 98:0 /root /point options [optional fields] - type source options`
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ');
        let (_major, minor) = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
        let minor = minor.parse().ok()?;
        let point = PathBuf::from(OsString::from_vec(unescaped(fields.nth(1)?)));
        let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
        Some(Self { point, fs_type: String::from_utf8_lossy(tail.next()?).into_owned(), minor })
    }
}

fn mounts(table: &[u8]) -> impl Iterator<Item = Mount> + '_ {
    table.split(|b| *b == b'\n').filter_map(Mount::parse)
}

/// The kernel writes space, tab, newline and backslash as three octal digits after a backslash.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if byte == b'\\' => {
                out.push(code);
                rest = &after[3..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_point_and_type() {
        let ours: &[u8] =
            b"36 35 0:45 / /run/a\\040b\\134c ro,noatime shared:1 master:2 - fuse.jaunt jaunt ro";
        let parsed = Mount::parse(ours).unwrap();
        assert!(parsed.is_ours() && parsed.point == Path::new("/run/a b\\c"));
        assert_eq!(parsed.minor, 45);
        let other = Mount::parse(b"36 35 0:45 / /run/x ro - fuse.other fuse.jaunt ro").unwrap();
        assert_eq!((other.is_ours(), other.point.to_str()), (false, Some("/run/x")));
        for garbage in [&b""[..], b"1 2 3", b"1 2 0:3 4 5 -", b"1 2 0:3 4 5 6", b"1 2 x 4 5 - a b"] {
            assert_eq!(Mount::parse(garbage), None);
        }
    }

    #[test]
    fn the_topmost_of_stacked_mounts_counts() {
        assert_eq!(mounted_on(Path::new("/proc")).unwrap().unwrap().fs_type, "proc");
        assert_eq!(mounted_on(Path::new("/proc/self")).unwrap(), None);
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescaped(b"a\\"), b"a\\");
        assert_eq!(unescaped(b"\\9999"), b"\\9999");
        assert_eq!(unescaped(b"\\777x"), b"\\777x");
        assert_eq!(unescaped(b"\\011\\012"), b"\t\n");
    }
}
