//! The entries of a layer out of its TOC and its tar-split, without its content.
//!
//! The headers are all in the tar-split; the TOC adds where content lies in the blob, and its digests.
//! The two are read side by side, entry by entry, and must say the same of each: so the entries are
//! those that scanning the tar gives, and content can be trusted as far as the descriptor's annotations.
//! Neither document is ever in memory as a whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::layout::Annotations;
use super::reader::{TocError, frames, read_toc};
use super::replay::{Between, Replay, TarSplitError};
use super::toc::{self, TocEntry};
use super::weight::{MAX_METADATA, weight_of};
use crate::spool::NewSpool;
use crate::tar::Member;
use crate::{Digest, Entry, EntryLog, EntryLogWriter, Timestamp};

/// Bytes a tar-split may have when decompressed: some million entries.
pub(super) const MAX_TAR_SPLIT_LEN: u64 = 2 << 30;

/// Why TOC and tar-split do not describe a layer.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    /// Without it nothing is known of the headers, and so nothing of where content lies in the tar.
    #[error("the layer has no tar-split, or its TOC does not name one")]
    NoTarSplit,
    /// The TOC is not one.
    #[error(transparent)]
    Toc(#[from] TocError),
    /// The bytes are not those the TOC names.
    #[error("tar-split has digest {actual} instead of {expected}")]
    TarSplitDigest {
        /// What the TOC says.
        expected: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// It would be larger than any that is accepted.
    #[error("tar-split of {0} bytes is larger than the limit of {MAX_TAR_SPLIT_LEN}")]
    TarSplitTooLarge(u64),
    /// The tar-split is not one.
    #[error(transparent)]
    TarSplit(#[from] TarSplitError),
    /// The two say different things of an entry.
    #[error("TOC and tar-split differ in {what} of entry {name:?}")]
    Differ {
        /// The entry, as the TOC names it.
        name: String,
        /// In what.
        what: &'static str,
    },
    /// One has entries that the other lacks.
    #[error("TOC and tar-split have different numbers of entries")]
    Count,
    /// The entries alone would fill the memory.
    #[error("the layer's entries need more than {MAX_METADATA} bytes of memory")]
    TooMuchMetadata,
    /// There is no room for the entries.
    #[error("cannot set the layer's entries aside: {0}")]
    Spool(#[from] std::io::Error),
    /// Refused by who takes the entries.
    #[error("entry {name:?}: {what}")]
    Refused {
        /// The entry.
        name: String,
        /// Why.
        what: &'static str,
    },
}

/// One entry, and where its content lies in the blob.
pub(super) struct Described {
    pub member: Box<Member>,
    /// What the tar has between the content before and this one, if it has content.
    pub before: Option<Between>,
    /// The entry of the TOC and its further chunks, in their order; nothing of them has been checked
    /// but what they repeat of the headers.
    pub chunks: Vec<TocEntry>,
}

/// What follows the last entry.
pub(super) struct Rest {
    pub tar_len: u64,
    pub behind: Option<Between>,
}

/// The entries of a layer, in the tar's order: what scanning its tar would give.
///
/// # Errors
/// The documents are not those that the annotations name, are malformed, or contradict each other.
pub fn read_entries(
    annotations: &Annotations,
    toc: &[u8],
    tar_split: &[u8],
) -> Result<Vec<Entry>, EntriesError> {
    let mut entries = Vec::new();
    read_described(annotations, toc, tar_split, &mut |described| {
        entries.push(described.member.entry);
        Ok(())
    })?;
    Ok(entries)
}

/// The same, set aside.
pub(super) fn log_entries(
    annotations: &Annotations,
    toc: &[u8],
    tar_split: &[u8],
    spool: NewSpool,
) -> Result<EntryLog, EntriesError> {
    let mut entries = EntryLogWriter::new(spool);
    read_described(annotations, toc, tar_split, &mut |described| Ok(entries.push(&described.member.entry)?))?;
    Ok(entries.finish()?)
}

/// Reads both documents side by side.
pub(super) fn read_described(
    annotations: &Annotations,
    toc: &[u8],
    tar_split: &[u8],
    sink: &mut dyn FnMut(Described) -> Result<(), EntriesError>,
) -> Result<Rest, EntriesError> {
    let split_position = annotations.tar_split.as_ref().ok_or(EntriesError::NoTarSplit)?;
    if split_position.raw_len > MAX_TAR_SPLIT_LEN {
        return Err(EntriesError::TarSplitTooLarge(split_position.raw_len));
    }
    let lines = frames(tar_split, split_position).map_err(TarSplitError::Compression)?;
    let mut pairs = Pairs { replay: Replay::new(lines), open: None, weight: 0, sink };
    let mut failed = None;
    let expected = read_toc(toc, &annotations.toc, annotations.toc_digest, &mut |entry| {
        pairs.take(entry).map_err(|error| failed = Some(error)).is_ok()
    });
    let expected = match failed {
        Some(error) => return Err(error),
        None => expected?.ok_or(EntriesError::NoTarSplit)?,
    };
    let actual = Digest::of(tar_split);
    if actual != expected {
        return Err(EntriesError::TarSplitDigest { expected, actual });
    }
    pairs.finish()
}

/// Puts together what belongs together.
struct Pairs<'a, R> {
    replay: Replay<R>,
    /// The entry whose further chunks may still come.
    open: Option<Described>,
    weight: u64,
    sink: &'a mut dyn FnMut(Described) -> Result<(), EntriesError>,
}

impl<R: std::io::BufRead> Pairs<'_, R> {
    fn take(&mut self, entry: TocEntry) -> Result<(), EntriesError> {
        if entry.kind == "chunk" {
            let differ = |what| Err(EntriesError::Differ { name: entry.name.clone(), what });
            return match &mut self.open {
                Some(open) if open.chunks[0].name == entry.name => {
                    open.chunks.push(entry);
                    Ok(())
                }
                _ => differ("the file that a chunk belongs to"),
            };
        }
        self.close()?;
        let found = self.replay.next_entry()?.ok_or(EntriesError::Count)?;
        check(&entry, &found.member)
            .map_err(|what| EntriesError::Differ { name: entry.name.clone(), what })?;
        self.weight += weight_of(&found.member);
        if self.weight > MAX_METADATA {
            return Err(EntriesError::TooMuchMetadata);
        }
        self.open = Some(Described { member: found.member, before: found.before, chunks: vec![entry] });
        Ok(())
    }

    fn close(&mut self) -> Result<(), EntriesError> {
        match self.open.take() {
            Some(described) => (self.sink)(described),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Rest, EntriesError> {
        self.close()?;
        if self.replay.next_entry()?.is_some() {
            return Err(EntriesError::Count);
        }
        let (tar_len, behind) = self.replay.finish()?;
        Ok(Rest { tar_len, behind })
    }
}

/// What differs between an entry and its headers. Access and change times reach no file system.
fn check(entry: &TocEntry, member: &Member) -> Result<(), &'static str> {
    let (written, of_tar) = (&member.written, &member.entry);
    let kind = toc::kind(written.typeflag).ok_or("type, or it is of one that a TOC has no word for")?;
    let len = member.content.end - member.content.start;
    let xattrs = || of_tar.xattrs.iter().map(|xattr| (&*xattr.name, STANDARD.encode(&xattr.value)));
    let named = entry.xattrs.iter().map(|(name, value)| (name.as_bytes(), value));
    let bits = |mode: i64| mode & 0o7777;
    let same = [
        (entry.kind == kind, "type"),
        (entry.name.as_bytes() == written.name, "name"),
        (entry.link_name.as_bytes() == written.link_name, "link target"),
        (bits(entry.mode) == bits(written.mode), "mode"),
        (u64::try_from(entry.size) == Ok(len) && entry.size == written.size, "size"),
        ((entry.uid, entry.gid) == (of_tar.uid.into(), of_tar.gid.into()), "owner"),
        (time(entry.mod_time.as_deref()) == Some(written.mtime), "modification time"),
        ((entry.dev_major, entry.dev_minor) == (written.dev_major, written.dev_minor), "device number"),
        (xattrs().eq(named.map(|(name, value)| (name, value.clone()))), "extended attributes"),
    ];
    same.into_iter().find(|(same, _)| !same).map_or(Ok(()), |(_, what)| Err(what))
}

/// RFC 3339 with any offset; none at all, and Go's zero time, are the epoch.
fn time(text: Option<&str>) -> Option<Timestamp> {
    let Some(text) = text.filter(|text| !text.starts_with("0001-01-01T00:00:00")) else {
        return Some(Timestamp::default());
    };
    let time: jiff::Timestamp = text.parse().ok()?;
    let (seconds, nanoseconds) = (time.as_second(), time.subsec_nanosecond());
    // Before the epoch, jiff counts both towards zero.
    let (seconds, nanoseconds) =
        if nanoseconds < 0 { (seconds - 1, nanoseconds + 1_000_000_000) } else { (seconds, nanoseconds) };
    Some(Timestamp { seconds, nanoseconds: u32::try_from(nanoseconds).ok()? })
}

#[cfg(test)]
#[path = "entries_tests.rs"]
mod tests;
