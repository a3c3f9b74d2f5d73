//! Finding our own mounts in `/proc/self/mountinfo` (proc_pid_mountinfo(5)), without touching them.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use jaunt_layerfs::fuse::mount::FS_TYPE;

/// Mount points of our file systems strictly below `directory` (canonical), in the order of mounting.
pub(super) fn points_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let points = table.split(|b| *b == b'\n').filter_map(point_of_ours);
    Ok(points.filter(|point| point != directory && point.starts_with(directory)).collect())
}

/// `36 35 98:0 /root /point options [optional fields] - type source options`
fn point_of_ours(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|b| *b == b' ');
    let point = fields.nth(4)?;
    let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
    (tail.next()? == FS_TYPE.as_bytes()).then(|| PathBuf::from(OsString::from_vec(unescaped(point))))
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
    fn only_our_type_counts() {
        let ours: &[u8] =
            b"36 35 0:45 / /run/a\\040b\\134c ro,noatime shared:1 master:2 - fuse.jaunt jaunt ro";
        assert_eq!(point_of_ours(ours), Some(PathBuf::from("/run/a b\\c")));
        let plain: &[u8] = b"36 35 0:45 / /run/x ro - fuse.jaunt jaunt ro";
        assert_eq!(point_of_ours(plain), Some(PathBuf::from("/run/x")));
        let other: &[u8] = b"36 35 0:45 / /run/x ro - fuse.other fuse.jaunt ro";
        assert_eq!(point_of_ours(other), None);
        for garbage in [&b""[..], b"1 2 3", b"1 2 3 4 5 -", b"1 2 3 4 5 6"] {
            assert_eq!(point_of_ours(garbage), None);
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescaped(b"a\\"), b"a\\");
        assert_eq!(unescaped(b"\\9999"), b"\\9999");
        assert_eq!(unescaped(b"\\777x"), b"\\777x");
        assert_eq!(unescaped(b"\\011\\012"), b"\t\n");
    }
}
