//! What follows a converted blob's spans: TOC, tar-split and footer against the annotations and the tar,
//! and the seek table against the frames.

use std::collections::HashMap;

use jaunt_formats::seekable::{self, Frame};
use jaunt_formats::zstd_chunked::{Annotations, FOOTER_LEN, Footer, foreign};
use jaunt_formats::{Entry, Timestamp, Xattr};

use crate::finding::{Check, Finding, Findings};

/// Length of a skippable frame's header.
const SKIPPABLE_HEADER_LEN: u64 = 8;

/// The end of a blob.
pub struct Tail<'a> {
    pub bytes: &'a [u8],
    /// Blob offset of the first of them.
    pub start: u64,
    /// Length of the blob.
    pub blob_len: u64,
}

impl Tail<'_> {
    fn slice(&self, from: u64, to: u64) -> Option<&[u8]> {
        let at = |offset: u64| usize::try_from(offset.checked_sub(self.start)?).ok();
        self.bytes.get(at(from)?..at(to)?)
    }

    /// The entries that TOC and tar-split give; none if the blob is not in zstd:chunked, or they are bad.
    pub fn entries(
        &self,
        annotations: &HashMap<String, String>,
        findings: &mut Findings,
    ) -> Option<Vec<Entry>> {
        let mut refuse = |what: String| findings.push(Finding::new(Check::Toc, what));
        let annotations = match Annotations::parse(annotations) {
            Ok(annotations) => annotations?,
            Err(error) => {
                refuse(error.to_string());
                return None;
            }
        };
        if !self.has_footer_of(&annotations) {
            refuse("the footer behind the tar-split says something else than the annotations".to_owned());
        }
        let read = foreign::tail(&annotations, self.blob_len).and_then(|range| {
            let bytes = self.slice(range.start, range.end).unwrap_or_default();
            foreign::read_entries(self.blob_len, &annotations, bytes)
        });
        read.map_err(|error| refuse(error.to_string())).ok()
    }

    fn has_footer_of(&self, annotations: &Annotations) -> bool {
        let Some(tar_split) = annotations.tar_split else { return true };
        let footer = || {
            let start = tar_split.offset.0.checked_add(tar_split.len)?.checked_add(SKIPPABLE_HEADER_LEN)?;
            let bytes = self.slice(start, start.checked_add(FOOTER_LEN as u64)?)?;
            Footer::parse(bytes.first_chunk()?)
        };
        footer() == Some(Footer { toc: annotations.toc, tar_split })
    }

    /// Holds the seek table against the frames that were seen, by blob offset.
    pub fn check_seek_table(&self, seen: &[(u64, Frame)], tar_len: u64, findings: &mut Findings) {
        let mut refuse = |finding: Finding| findings.push(finding);
        let of_table = |what: &str| Finding::new(Check::SeekTable, what);
        let parsed =
            seekable::parse(self.bytes).and_then(|frames| Ok((frames, seekable::footer(self.bytes)?)));
        let (frames, footer) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return refuse(of_table(&error.to_string())),
        };
        let (mut blob, mut tar) = (0, 0);
        let mut listed = HashMap::new();
        for frame in frames {
            listed.insert(blob, frame);
            blob += u64::from(frame.compressed);
            tar += u64::from(frame.decompressed);
        }
        let frames_end = self.blob_len.saturating_sub(footer.table_len());
        if (blob, tar) != (frames_end, tar_len) {
            let lengths = |(blob, tar): (u64, u64)| format!("{blob} bytes that decode to {tar}");
            refuse(of_table("its frames have").values(lengths((frames_end, tar_len)), lengths((blob, tar))));
        }
        for (offset, frame) in seen {
            let found = listed.get(offset);
            if found != Some(frame) {
                let lengths =
                    |frame: &Frame| format!("{} bytes for {}", frame.compressed, frame.decompressed);
                let found = found.map_or("nothing".to_owned(), lengths);
                refuse(of_table("of the frame here it says").at(*offset).values(lengths(frame), found));
            }
        }
    }
}

/// Tells where the entries of a TOC are not those of the tar.
pub fn compare(tar: &[Entry], toc: &[Entry], findings: &mut Findings) {
    if tar.len() != toc.len() {
        let finding = Finding::new(Check::Toc, "its number of entries");
        findings.push(finding.values(tar.len(), toc.len()));
    }
    for (of_tar, of_toc) in tar.iter().zip(toc).filter(|(of_tar, of_toc)| of_tar != of_toc) {
        let fields = |entry: &Entry| {
            [
                ("path", format!("{:?}", entry.path)),
                ("kind", format!("{:?}", entry.kind)),
                ("mode", mode(entry.mode)),
                ("owner", format!("{}:{}", entry.uid, entry.gid)),
                ("mtime", time(entry.mtime)),
                ("xattrs", xattrs(&entry.xattrs)),
            ]
        };
        for ((field, expected), (_, actual)) in fields(of_tar).into_iter().zip(fields(of_toc)) {
            if expected != actual {
                let finding = Finding::new(Check::Toc, "the TOC has").of_entry(&of_tar.path).of_field(field);
                findings.push(finding.values(expected, actual));
            }
        }
    }
}

pub fn mode(mode: u32) -> String {
    format!("0{mode:o}")
}

pub fn time(time: Timestamp) -> String {
    format!("{}.{:09}", time.seconds, time.nanoseconds)
}

pub fn xattrs(xattrs: &[Xattr]) -> String {
    let text = |xattr: &Xattr| format!("{}={}", xattr.name.escape_ascii(), xattr.value.escape_ascii());
    format!("[{}]", xattrs.iter().map(text).collect::<Vec<_>>().join(" "))
}
