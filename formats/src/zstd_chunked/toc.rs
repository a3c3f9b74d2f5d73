//! The table of contents: every entry's metadata, and where its content lies in the blob.
//!
//! Names and numbers are the tar's own, since podman compares them with the headers in the tar-split.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::plan::Obstacle;
use crate::tar::Member;
use crate::{Digest, Timestamp};

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Toc {
    /// Always 1.
    pub version: u32,
    /// In the tar's order; a file's second and later chunks follow it as entries of type `chunk`.
    pub entries: Vec<TocEntry>,
    /// Digest of the compressed tar-split.
    #[serde(rename = "tarSplitDigest", skip_serializing_if = "Option::is_none", default)]
    pub tar_split_digest: Option<Digest>,
}

/// One entry, or one further chunk of a file. Type and name must be there, so that a hostile TOC cannot
/// make a hundred times as much memory out of empty ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct TocEntry {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mode: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: i64,
    #[serde(rename = "modtime", default, skip_serializing_if = "Option::is_none")]
    pub mod_time: Option<String>,
    #[serde(rename = "accesstime", default, skip_serializing_if = "Option::is_none")]
    pub access_time: Option<String>,
    #[serde(rename = "changetime", default, skip_serializing_if = "Option::is_none")]
    pub change_time: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dev_major: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dev_minor: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub end_offset: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chunk_size: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chunk_offset: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chunk_type: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
pub(super) fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A TOC's word for a tar's type flag, if it has one.
pub(super) fn kind(typeflag: u8) -> Option<&'static str> {
    Some(match typeflag {
        b'0' => "reg",
        b'1' => "hardlink",
        b'2' => "symlink",
        b'3' => "char",
        b'4' => "block",
        b'5' => "dir",
        b'6' => "fifo",
        _ => return None,
    })
}

impl TocEntry {
    /// An entry without its place in the blob, or why a TOC cannot say it.
    pub(super) fn of(member: &Member) -> Result<Self, Obstacle> {
        let (entry, written) = (&member.entry, &member.written);
        let kind = kind(written.typeflag).ok_or(Obstacle::Type)?;
        if written.size.unsigned_abs() != member.content.end - member.content.start {
            return Err(Obstacle::Size);
        }
        let text = |bytes: &[u8]| str::from_utf8(bytes).map(str::to_owned).map_err(|_| Obstacle::Text);
        if written.name.is_empty() {
            return Err(Obstacle::Text);
        }
        let time = |at: Option<Timestamp>| at.map(rfc3339).transpose();
        let xattrs = entry.xattrs.iter().map(|x| Ok((text(&x.name)?, STANDARD.encode(&x.value))));
        Ok(Self {
            kind: kind.to_owned(),
            name: text(&written.name)?,
            link_name: text(&written.link_name)?,
            mode: written.mode,
            size: written.size,
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            mod_time: time(Some(written.mtime))?,
            access_time: time(written.atime)?,
            change_time: time(written.ctime)?,
            dev_major: written.dev_major,
            dev_minor: written.dev_minor,
            xattrs: xattrs.collect::<Result<_, _>>()?,
            ..Self::default()
        })
    }

    /// A further chunk of the file `name`.
    pub(super) fn chunk(name: &str) -> Self {
        Self { kind: "chunk".to_owned(), name: name.to_owned(), ..Self::default() }
    }
}

/// RFC 3339 has four digits for a year.
fn rfc3339(at: Timestamp) -> Result<String, Obstacle> {
    const YEAR_0: i64 = -62_167_219_200;
    const YEAR_10000: i64 = 253_402_300_800;
    if !(YEAR_0..YEAR_10000).contains(&at.seconds) {
        return Err(Obstacle::Time);
    }
    let nanoseconds = i32::try_from(at.nanoseconds).map_err(|_| Obstacle::Time)?;
    let time = jiff::Timestamp::new(at.seconds, nanoseconds).map_err(|_| Obstacle::Time)?;
    Ok(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_times_as_go_reads_them() {
        let of = |seconds, nanoseconds| rfc3339(Timestamp { seconds, nanoseconds });
        assert_eq!(of(0, 0).as_deref(), Ok("1970-01-01T00:00:00Z"));
        assert_eq!(of(1_700_000_000, 120_000_000).as_deref(), Ok("2023-11-14T22:13:20.12Z"));
        assert_eq!(of(-2, 750_000_000).as_deref(), Ok("1969-12-31T23:59:58.75Z"));
        assert_eq!(of(-62_167_219_200, 0).as_deref(), Ok("0000-01-01T00:00:00Z"));
        assert_eq!(of(253_402_300_800, 0), Err(Obstacle::Time));
    }
}
