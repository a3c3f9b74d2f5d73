//! PAX extended headers: records `<length> <key>=<value>\n` that override a header's fields.
//!
//! An empty value keeps the header's own; a later record of a key overrides an earlier one.

use std::collections::BTreeMap;

use super::error::{Problem, shown};
use crate::Timestamp;

/// The records of one extended header that matter to an unpacker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub size: Option<i64>,
    pub mtime: Option<Timestamp>,
    pub atime: Option<Timestamp>,
    pub ctime: Option<Timestamp>,
    /// Values may be empty here: an empty attribute is an attribute.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sparse: SparseRecords,
}

/// `GNU.sparse.*`, formats 0.0, 0.1 and 1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub major: Option<Vec<u8>>,
    pub minor: Option<Vec<u8>>,
    pub name: Option<Vec<u8>>,
    pub size: Option<i64>,
    pub real_size: Option<i64>,
    /// Numbers of format 0.1's map, or of 0.0's pairs of records.
    pub map: Option<Vec<u64>>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Parses the whole content of an extended header.
    pub fn parse(mut data: &[u8]) -> Result<Self, Problem> {
        let mut pax = Self::default();
        let mut pairs = Vec::new();
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or(Problem::PaxRecord)?;
            data = rest;
            match key {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    let turn = if pairs.len() % 2 == 0 {
                        b"GNU.sparse.offset" as &[u8]
                    } else {
                        b"GNU.sparse.numbytes"
                    };
                    if key != turn {
                        return Err(value_error("GNU.sparse.numbytes", value));
                    }
                    pairs.push(map_number(value)?);
                }
                _ => pax.apply(key, value)?,
            }
        }
        if !pairs.is_empty() {
            pax.sparse.map = Some(pairs);
        }
        Ok(pax)
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        match key {
            b"path" => self.path = text("path", value)?,
            b"linkpath" => self.link_path = text("linkpath", value)?,
            b"uid" => self.uid = integer("uid", value)?,
            b"gid" => self.gid = integer("gid", value)?,
            b"size" => self.size = integer("size", value)?,
            b"mtime" => self.mtime = time("mtime", value)?,
            b"atime" => self.atime = time("atime", value)?,
            b"ctime" => self.ctime = time("ctime", value)?,
            b"GNU.sparse.major" => self.sparse.major = text("GNU.sparse.major", value)?,
            b"GNU.sparse.minor" => self.sparse.minor = text("GNU.sparse.minor", value)?,
            b"GNU.sparse.name" => self.sparse.name = text("GNU.sparse.name", value)?,
            b"GNU.sparse.size" => self.sparse.size = integer("GNU.sparse.size", value)?,
            b"GNU.sparse.realsize" => self.sparse.real_size = integer("GNU.sparse.realsize", value)?,
            b"GNU.sparse.map" => self.sparse.map = map(value)?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR).filter(|name| !name.is_empty()) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// Splits the first record off.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().position(|&byte| byte == b' ')?;
    let len: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let (record, rest) = data.split_at_checked(len)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&pair[..equals], &pair[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

fn value_error(key: &'static str, value: &[u8]) -> Problem {
    Problem::PaxValue { key, value: shown(value) }
}

fn text(key: &'static str, value: &[u8]) -> Result<Option<Vec<u8>>, Problem> {
    if value.contains(&0) {
        return Err(value_error(key, value));
    }
    Ok(Some(value.to_vec()).filter(|value| !value.is_empty()))
}

fn integer(key: &'static str, value: &[u8]) -> Result<Option<i64>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    parse_integer(value).map(Some).ok_or_else(|| value_error(key, value))
}

fn parse_integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// `-1.25` is a quarter of a second before -1, that is -2 s and 750,000,000 ns.
fn time(key: &'static str, value: &[u8]) -> Result<Option<Timestamp>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    parse_time(value).map(Some).ok_or_else(|| value_error(key, value))
}

fn parse_time(value: &[u8]) -> Option<Timestamp> {
    let dot = value.iter().position(|&byte| byte == b'.').unwrap_or(value.len());
    let seconds = parse_integer(&value[..dot])?;
    let fraction = value.get(dot + 1..).unwrap_or(&[]);
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    if value.starts_with(b"-") && nanoseconds > 0 {
        return Some(Timestamp {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(Timestamp { seconds, nanoseconds })
}

fn map(value: &[u8]) -> Result<Option<Vec<u64>>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    value.split(|&byte| byte == b',').map(map_number).collect::<Result<_, _>>().map(Some)
}

fn map_number(value: &[u8]) -> Result<u64, Problem> {
    let number = parse_integer(value).and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| value_error("GNU.sparse.map", value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_with_fractions_and_signs() {
        let at = |seconds, nanoseconds| Some(Timestamp { seconds, nanoseconds });
        for (text, want) in [
            ("1", at(1, 0)),
            ("1.", at(1, 0)),
            ("1.5", at(1, 500_000_000)),
            ("1.1234567899", at(1, 123_456_789)),
            ("-1.25", at(-2, 750_000_000)),
            ("-0.5", at(-1, 500_000_000)),
            ("-3", at(-3, 0)),
            ("", None),
            (".5", None),
            ("1.5x", None),
            ("1.-5", None),
        ] {
            assert_eq!(parse_time(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn refuses_records_that_break_the_grammar() {
        for bad in [
            "x",
            "5 a=b\n",
            "9 a=b\n",
            "6 a=b",
            "6 a=bx",
            "7 =abc\n",
            "6 abc\n",
            "99999999999999999999 a=b\n",
            "1 a=b\n",
        ] {
            assert_eq!(Pax::parse(bad.as_bytes()), Err(Problem::PaxRecord), "{bad}");
        }
    }

    #[test]
    fn an_empty_value_keeps_the_header_but_an_empty_xattr_is_set() {
        let pax = Pax::parse(b"9 path=x\n8 path=\n24 SCHILY.xattr.user.a=\n").expect("well-formed");
        assert_eq!(pax.path, None);
        assert_eq!(pax.xattrs.get(b"user.a".as_slice()), Some(&Vec::new()));
    }
}
