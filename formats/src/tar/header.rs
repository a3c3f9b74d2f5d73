//! One 512-byte header block: its dialect and its fields.
//!
//! Layout: POSIX ustar, GNU and star; the views come from tar-core. Numbers are octal, or big-endian
//! two's complement with the top bit set (base-256), which may be negative.

use tar_core::{Header, UstarHeader};

use super::BLOCK_USIZE;
use super::error::Problem;
use crate::Timestamp;

/// Which dialect a block is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// The fields of one header block, before extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub dialect: Dialect,
    pub typeflag: u8,
    pub name: Vec<u8>,
    pub link_name: Vec<u8>,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    pub mtime: Timestamp,
    pub atime: Option<Timestamp>,
    pub ctime: Option<Timestamp>,
    pub dev_major: i64,
    pub dev_minor: i64,
}

impl Fields {
    /// Reads a block that is not all zeros.
    pub fn parse(block: &[u8; BLOCK_USIZE]) -> Result<Self, Problem> {
        let header = Header::from_bytes(block).as_ustar();
        check_sum(block, header)?;
        let mut fields = Self {
            dialect: dialect(block, header),
            typeflag: header.typeflag[0],
            name: c_string(&header.name).to_vec(),
            link_name: c_string(&header.linkname).to_vec(),
            mode: number(&header.mode, "mode")?,
            uid: number(&header.uid, "uid")?,
            gid: number(&header.gid, "gid")?,
            size: number(&header.size, "size")?,
            mtime: seconds(number(&header.mtime, "mtime")?),
            atime: None,
            ctime: None,
            dev_major: 0,
            dev_minor: 0,
        };
        if fields.dialect != Dialect::V7 {
            fields.dev_major = number(&header.dev_major, "devmajor")?;
            fields.dev_minor = number(&header.dev_minor, "devminor")?;
            fields.read_dialect(block, header)?;
        }
        Ok(fields)
    }

    /// Prefix and times, which lie elsewhere in each dialect.
    fn read_dialect(&mut self, block: &[u8; BLOCK_USIZE], header: &UstarHeader) -> Result<(), Problem> {
        match self.dialect {
            Dialect::V7 => {}
            Dialect::Ustar => self.prepend(c_string(&header.prefix)),
            Dialect::Star => {
                self.prepend(c_string(&header.prefix[..STAR_PREFIX_LEN]));
                self.atime = Some(seconds(number(&header.prefix[131..143], "atime")?));
                self.ctime = Some(seconds(number(&header.prefix[143..155], "ctime")?));
            }
            Dialect::Gnu => {
                let gnu = Header::from_bytes(block).as_gnu();
                match (gnu_time(&gnu.atime, "atime"), gnu_time(&gnu.ctime, "ctime")) {
                    (Ok(atime), Ok(ctime)) => (self.atime, self.ctime) = (atime, ctime),
                    // Go before 1.8, and with it early Docker, wrote a ustar prefix into GNU headers,
                    // over the times. Such layers still exist, and Go still reads them this way.
                    _ if c_string(&header.prefix).is_ascii() => self.prepend(c_string(&header.prefix)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn prepend(&mut self, prefix: &[u8]) {
        if !prefix.is_empty() {
            self.name = [prefix, b"/", &self.name].concat();
        }
    }
}

const STAR_PREFIX_LEN: usize = 131;

fn dialect(block: &[u8; BLOCK_USIZE], header: &UstarHeader) -> Dialect {
    match (&header.magic, &header.version) {
        (b"ustar\0", _) if block.ends_with(b"tar\0") => Dialect::Star,
        (b"ustar\0", _) => Dialect::Ustar,
        (b"ustar ", b" \0") => Dialect::Gnu,
        _ => Dialect::V7,
    }
}

/// The sum of all bytes with the checksum field as spaces, of unsigned bytes or, as some old tars
/// computed it, of signed ones.
fn check_sum(block: &[u8; BLOCK_USIZE], header: &UstarHeader) -> Result<(), Problem> {
    let want = octal(&header.cksum).ok_or(Problem::Checksum)?;
    let others = || block[..148].iter().chain(&block[156..]);
    let spaces = 8 * i64::from(b' ');
    let unsigned: i64 = spaces + others().map(|&byte| i64::from(byte)).sum::<i64>();
    let signed: i64 = spaces + others().map(|&byte| i64::from(byte.cast_signed())).sum::<i64>();
    if want == unsigned || want == signed { Ok(()) } else { Err(Problem::Checksum) }
}

/// The bytes before the first NUL.
pub(super) fn c_string(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanoseconds: 0 }
}

fn gnu_time(field: &[u8], name: &'static str) -> Result<Option<Timestamp>, Problem> {
    if field[0] == 0 { Ok(None) } else { number(field, name).map(seconds).map(Some) }
}

/// A numeric field: base-256 or octal.
pub(super) fn number(field: &[u8], name: &'static str) -> Result<i64, Problem> {
    let value = if field[0] & 0x80 != 0 { base_256(field) } else { octal(field) };
    value.ok_or(Problem::Number(name))
}

fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let start = if negative { -1 } else { 0 };
    field.iter().enumerate().try_fold(start, |value: i64, (index, &byte)| {
        let byte = match (index, negative) {
            (0, true) => byte | 0x80,
            (0, false) => byte & 0x7f,
            _ => byte,
        };
        // -1 << 8 | 0xff is -1 again, so leading sign bytes of either kind never overflow.
        Some(value.checked_mul(256)? | i64::from(byte))
    })
}

/// Octal digits between spaces and NULs; nothing at all is zero.
fn octal(field: &[u8]) -> Option<i64> {
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !padding(byte)) else { return Some(0) };
    let end = field.iter().rposition(|byte| !padding(byte)).map_or(start, |last| last + 1);
    let digits = c_string(&field[start..end]);
    digits.iter().try_fold(0_i64, |value, &digit| {
        let digit = matches!(digit, b'0'..=b'7').then(|| i64::from(digit - b'0'))?;
        Some(value.checked_mul(8)? | digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_go_does() {
        let table: [(&[u8], Option<i64>); 12] = [
            (b"0000644\0", Some(0o644)),
            (b"    644 ", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\x00644\0\0\0\0", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"64x\0\0\0\0\0", None),
            (b"8", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\x02", Some(258)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\0\0\0\0\0\0\0\0\0\0\0", None),
        ];
        for (field, want) in table {
            assert_eq!(number(field, "x").ok(), want, "{field:?}");
        }
    }
}
