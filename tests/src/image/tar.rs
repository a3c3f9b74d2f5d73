//! Writes fixtures as POSIX.1-2001 (PAX) archives, with an extended header only where ustar is too small.
//!
//! ustar header, 512 bytes: name 0..100, mode 100..108, uid 108..116, gid 116..124, size 124..136,
//! mtime 136..148, checksum 148..156, type 156, link name 157..257, magic and version 257..265, device
//! major 329..337, minor 337..345. Numbers are octal digits ended by NUL. PAX records are
//! `<length> <key>=<value>\n`, the length counting itself.

use super::entry::{Entry, Kind};

const BLOCK: usize = 512;
/// Largest values seven and eleven octal digits can hold.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// The whole archive, ended by two zero blocks.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        write_entry(&mut out, entry);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    let (kind, link, content): (u8, &[u8], &[u8]) = match &entry.kind {
        Kind::File(content) => (b'0', b"", content),
        Kind::HardLink(target) => (b'1', target, b""),
        Kind::Symlink(target) => (b'2', target, b""),
        Kind::CharDevice(..) => (b'3', b"", b""),
        Kind::BlockDevice(..) => (b'4', b"", b""),
        Kind::Directory => (b'5', b"", b""),
        Kind::Fifo => (b'6', b"", b""),
    };
    let path = match entry.kind {
        Kind::Directory if entry.path.is_empty() => b"./".to_vec(),
        Kind::Directory => [&entry.path[..], b"/"].concat(),
        _ => entry.path.clone(),
    };
    let records = pax_records(entry, &path, link);
    if !records.is_empty() {
        let mut header = Header::new(b"PaxHeaders/entry", b'x', 0o644);
        header.number(124..136, records.len() as u64);
        header.finish(out, &records);
    }
    let mut header = Header::new(&path, kind, entry.mode);
    header.number(108..116, u64::from(entry.uid));
    header.number(116..124, u64::from(entry.gid));
    header.number(124..136, content.len() as u64);
    header.number(136..148, u64::try_from(entry.seconds).unwrap_or(0));
    header.text(157..257, link);
    if let Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) = entry.kind {
        header.number(329..337, u64::from(major));
        header.number(337..345, u64::from(minor));
    }
    header.finish(out, content);
}

fn pax_records(entry: &Entry, path: &[u8], link: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    if path.len() > 100 {
        record(&mut records, "path", path);
    }
    if link.len() > 100 {
        record(&mut records, "linkpath", link);
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if u64::from(id) > OCTAL_7 {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    let octal = u64::try_from(entry.seconds).is_ok_and(|seconds| seconds <= OCTAL_11);
    if entry.nanoseconds != 0 || !octal {
        record(&mut records, "mtime", pax_time(entry.seconds, entry.nanoseconds).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&mut records, &format!("SCHILY.xattr.{name}"), value);
    }
    records
}

/// A decimal number: -1 s and 750 ms is written -0.25.
fn pax_time(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.abs() / 1_000_000_000, total.abs() % 1_000_000_000);
    format!("{sign}{whole}.{fraction:09}")
}

/// The length counts its own digits, so it is found by trying.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let len = (1..).map(|digits| rest + digits).find(|len| rest + len.to_string().len() == *len);
    out.extend_from_slice(format!("{} {key}=", len.unwrap_or_default()).as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(path: &[u8], kind: u8, mode: u32) -> Self {
        let mut header = Self([0; BLOCK]);
        header.text(0..100, path);
        header.number(100..108, u64::from(mode));
        for field in [108..116, 116..124, 136..148] {
            header.number(field, 0);
        }
        header.0[156] = kind;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    /// Cut where it is too long: a PAX record has the whole.
    fn text(&mut self, field: std::ops::Range<usize>, text: &[u8]) {
        let len = text.len().min(field.len());
        self.0[field.start..field.start + len].copy_from_slice(&text[..len]);
    }

    /// Zero where it is too large: a PAX record has the value.
    fn number(&mut self, field: std::ops::Range<usize>, value: u64) {
        let digits = field.len() - 1;
        let octal = format!("{value:0digits$o}");
        let octal = if octal.len() > digits { "0".repeat(digits) } else { octal };
        self.text(field, octal.as_bytes());
    }

    fn finish(mut self, out: &mut Vec<u8>, content: &[u8]) {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&self.0);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{dir, file, symlink};
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn record_lengths_count_themselves() {
        for (len, want) in [(1, "6 k="), (93, "99 k="), (94, "101 k=")] {
            let mut out = Vec::new();
            record(&mut out, "k", &vec![b'v'; len]);
            assert_eq!(&out[..want.len()], want.as_bytes());
            assert_eq!(out.len().to_string(), want.split(' ').next().unwrap());
        }
    }

    #[test]
    fn times_before_the_epoch_have_one_sign() {
        assert_eq!(pax_time(-1, 750_000_000), "-0.250000000");
        assert_eq!(pax_time(5, 1), "5.000000001");
    }

    /// GNU tar, which most layers of the world come from, reads what is written here.
    #[test]
    fn gnu_tar_lists_it() {
        let long = format!("d/{}", "n".repeat(120));
        let tar = archive(&[
            dir("d", 0o1777),
            file(&long, b"text").owner(3_000_000, 7).mtime(1_700_000_000, 5).mode(0o4755),
            symlink("d/s", "/x".repeat(80)),
        ]);
        let mut child = Command::new("tar")
            .args(["-tvf", "-", "--numeric-owner", "--utc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&tar).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = listing.lines().collect();
        assert!(lines[0].starts_with("drwxrwxrwt"), "{listing}");
        assert!(lines[1].starts_with("-rwsr-xr-x 3000000/7") && lines[1].ends_with(&long), "{listing}");
        assert!(lines[2].ends_with(&format!("-> {}", "/x".repeat(80))), "{listing}");
    }
}
