//! A file on disk: a launch index, packed or not, or a layer in zstd with a seek table or a table of contents.
//!
//! The file may be anything: every length is checked against the file and a limit before it is read. Of a
//! layer only its end is read into memory; the frames are hashed, not decoded.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use jaunt_formats::compression::{SKIPPABLE_HEADER_LEN, detect};
use jaunt_formats::launch::{self, Blob, Compression, LaunchError, LaunchIndex, MAX_INDEX_LEN};
use jaunt_formats::seekable::{self, SeekTableError};
use jaunt_formats::zstd_chunked::{
    Annotations, FOOTER_LEN, Footer, MAX_TOC_LEN, Position, decode_toc, foreign,
};
use jaunt_formats::{DiffId, Digest};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::image::{LayerReport, layer_report};
use crate::console::ratio;
use crate::file_error::FileError;

/// A table of twenty million frames; a layer of a TB has fewer.
const SEEK_TABLE_LIMIT: u64 = 256 << 20;
const INDEX_MAGIC: &[u8] = b"JAUNTIDX";

/// What a file is. Names of fields are names in JSON.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Found {
    LaunchIndex(IndexFile),
    Layer(LayerFile),
}

#[derive(Serialize)]
pub struct IndexFile {
    pub digest: Digest,
    pub bytes: u64,
    pub packed: bool,
    pub unpacked_bytes: u64,
    pub entries: usize,
    pub inodes: usize,
    pub bytes_per_entry: f64,
    #[serde(serialize_with = "without_blobs")]
    pub layers: Vec<LayerReport>,
}

#[derive(Serialize)]
pub struct LayerFile {
    pub digest: Digest,
    pub bytes: u64,
    pub toc: Option<TocReport>,
    pub seek_table: Option<SeekTableReport>,
    /// What the table of contents gives, without a launch index.
    pub lazy: Option<Lazy>,
    /// Why it gives nothing.
    pub not_lazy: Option<String>,
}

#[derive(Serialize)]
pub struct TocReport {
    pub digest: Digest,
    pub bytes: u64,
    pub unpacked_bytes: u64,
    pub entries: usize,
    /// A large file's second and later chunks, which are no entries of the tar.
    pub further_chunks: usize,
    pub tar_split_bytes: u64,
}

#[derive(Serialize)]
pub struct SeekTableReport {
    pub bytes: u64,
    pub frames: usize,
    pub skippable_frames: usize,
    pub decompressed_bytes: u64,
}

#[derive(Serialize)]
pub struct Lazy {
    pub tar_bytes: u64,
    pub entries: usize,
    pub spans: usize,
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Found, FileError> {
    // Opening a pipe would wait for somebody to write.
    if !std::fs::metadata(path)?.is_file() {
        return Err(FileError::NotAFile);
    }
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let start = part(&file, 0, len.min(INDEX_MAGIC.len() as u64))?;
    if start == INDEX_MAGIC {
        return index(&whole(&file, len)?, false).map(Found::LaunchIndex).map_err(FileError::Index);
    }
    match detect(&start) {
        _ if len == 0 => Err(FileError::Unknown("it is empty")),
        Compression::Gzip => Err(FileError::Unknown("it is gzip")),
        Compression::None => Err(FileError::Unknown("it starts as none of them does")),
        Compression::Zstd => match layer(&file, len)? {
            Some(layer) => Ok(Found::Layer(layer)),
            None if len > MAX_INDEX_LEN => Err(FileError::LargeZstd),
            None => index(&whole(&file, len)?, true).map(Found::LaunchIndex).map_err(FileError::OtherZstd),
        },
    }
}

fn whole(file: &File, len: u64) -> Result<Vec<u8>, FileError> {
    if len > MAX_INDEX_LEN { Err(LaunchError::TooLarge(len).into()) } else { Ok(part(file, 0, len)?) }
}

/// Bytes of which the caller knows that the file has them.
fn part(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn index(bytes: &[u8], packed: bool) -> Result<IndexFile, LaunchError> {
    let raw = if packed { launch::unpack(bytes)? } else { bytes.to_vec() };
    let unpacked_bytes = raw.len() as u64;
    let index = LaunchIndex::open(raw)?;
    index.verify_checksum()?;
    launch::check(&index)?;
    let layers = index.layers().iter().enumerate();
    let layers =
        layers.map(|(at, layer)| layer_report(layer, index.layer_stats(at).map(|stats| stats.inodes)));
    Ok(IndexFile {
        digest: Digest::of(bytes),
        bytes: bytes.len() as u64,
        packed,
        unpacked_bytes,
        entries: index.entry_count(),
        inodes: index.inode_count(),
        bytes_per_entry: ratio(bytes.len() as u64, index.entry_count() as u64),
        layers: layers.collect(),
    })
}

/// A layer, if the file ends as one does.
fn layer(file: &File, len: u64) -> Result<Option<LayerFile>, FileError> {
    let seek_table = seek_table(file, len)?;
    let end = len - seek_table.as_ref().map_or(0, |table| table.bytes);
    let footer = footer(file, end)?;
    if footer.is_none() && seek_table.is_none() {
        return Ok(None);
    }
    let digest = hash(file)?;
    let mut found = LayerFile { digest, bytes: len, toc: None, seek_table, lazy: None, not_lazy: None };
    let Some(footer) = footer else {
        found.not_lazy = Some("it has none".to_owned());
        return Ok(Some(found));
    };
    let toc_bytes = document(file, "table of contents", &footer.toc, end)?;
    let toc_digest = Digest::of(&toc_bytes);
    let toc = decode_toc(&toc_bytes, &footer.toc, toc_digest)?;
    let further_chunks = toc.entries.iter().filter(|entry| entry.kind == "chunk").count();
    found.toc = Some(TocReport {
        digest: toc_digest,
        bytes: footer.toc.len,
        unpacked_bytes: footer.toc.raw_len,
        entries: toc.entries.len() - further_chunks,
        further_chunks,
        tar_split_bytes: footer.tar_split.len,
    });
    drop(toc);
    match lazy(file, len, digest, &footer, toc_digest)? {
        Ok(lazy) => found.lazy = Some(lazy),
        Err(why) => found.not_lazy = Some(why),
    }
    Ok(Some(found))
}

/// What a node would make of the layer, were it in an image as it is.
fn lazy(
    file: &File,
    len: u64,
    digest: Digest,
    footer: &Footer,
    toc_digest: Digest,
) -> Result<Result<Lazy, String>, FileError> {
    let Footer { toc, tar_split } = *footer;
    let annotations = Annotations { toc_digest, toc, tar_split: Some(tar_split) };
    let range = match foreign::tail(&annotations, len) {
        Ok(range) => range,
        Err(why) => return Ok(Err(why.to_string())),
    };
    let tail = part(file, range.start, range.end - range.start)?;
    let blob = Blob { digest, len, compression: Compression::Zstd };
    // What the tar's digest is only the image's config knows; it is not asked for here.
    let read = foreign::read(DiffId(digest), blob, &annotations, &tail);
    Ok(read.map_err(|why| why.to_string()).map(|read| Lazy {
        tar_bytes: read.layer.tar_len,
        entries: read.entries.len(),
        spans: read.layer.spans.len(),
    }))
}

fn seek_table(file: &File, len: u64) -> Result<Option<SeekTableReport>, FileError> {
    let footer_len = len.min(seekable::FOOTER_LEN as u64);
    let footer = match seekable::footer(&part(file, len - footer_len, footer_len)?) {
        Err(SeekTableError::Absent) => return Ok(None),
        footer => footer?,
    };
    let bytes = footer.table_len();
    let range = FileError::Range { what: "a seek table", offset: len.saturating_sub(bytes), len: bytes };
    let Some(actual) = len.checked_sub(bytes).filter(|_| bytes <= SEEK_TABLE_LIMIT) else {
        return Err(range);
    };
    let frames = seekable::parse(&part(file, actual, bytes)?)?;
    let listed = frames.iter().map(|frame| u64::from(frame.compressed)).sum();
    if listed != actual {
        return Err(FileError::Frames { listed, actual });
    }
    Ok(Some(SeekTableReport {
        bytes,
        frames: frames.len(),
        skippable_frames: frames.iter().filter(|frame| frame.decompressed == 0).count(),
        decompressed_bytes: frames.iter().map(|frame| u64::from(frame.decompressed)).sum(),
    }))
}

/// The footer of zstd:chunked, in a skippable frame that ends at `end`.
fn footer(file: &File, end: u64) -> io::Result<Option<Footer>> {
    let Some(at) = end.checked_sub(FOOTER_LEN as u64) else { return Ok(None) };
    let mut bytes = [0; FOOTER_LEN];
    file.read_exact_at(&mut bytes, at)?;
    Ok(Footer::parse(&bytes))
}

/// A document before the footer.
fn document(file: &File, what: &'static str, at: &Position, end: u64) -> Result<Vec<u8>, FileError> {
    let frames = SKIPPABLE_HEADER_LEN..=end;
    let last = at.offset.0.checked_add(at.len);
    let lies_within = frames.contains(&at.offset.0) && last.is_some_and(|last| last <= end);
    if !lies_within || at.len > MAX_TOC_LEN {
        return Err(FileError::Range { what, offset: at.offset.0, len: at.len });
    }
    Ok(part(file, at.offset.0, at.len)?)
}

fn hash(mut file: &File) -> io::Result<Digest> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// An index knows nothing of where its layers are.
fn without_blobs<S: serde::Serializer>(layers: &[LayerReport], serializer: S) -> Result<S::Ok, S::Error> {
    let of = |layer: &LayerReport| {
        let mut value = serde_json::to_value(layer).map_err(serde::ser::Error::custom)?;
        for unknown in ["zstd_chunked", "seek_table", "present"] {
            value.as_object_mut().and_then(|fields| fields.remove(unknown));
        }
        Ok(value)
    };
    serializer.collect_seq(layers.iter().map(of).collect::<Result<Vec<_>, S::Error>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKOPEO: &[u8] = include_bytes!("../../../formats/testdata/zstd-chunked-by-skopeo-1.22.tar.zst");

    fn read_bytes(bytes: &[u8]) -> Result<Found, FileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path())
    }

    fn frames(lens: &[(u32, u32)], blob: &[u8]) -> Vec<u8> {
        let mut table = seekable::SeekTable::default();
        let frames =
            lens.iter().map(|&(compressed, decompressed)| seekable::Frame { compressed, decompressed });
        frames.for_each(|frame| table.push(frame));
        let mut bytes = blob.to_vec();
        table.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_layer_that_is_cut_short_anywhere_is_refused() {
        assert!(matches!(read_bytes(SKOPEO), Ok(Found::Layer(LayerFile { lazy: Some(_), .. }))));
        for len in (0..SKOPEO.len()).step_by(499).chain(SKOPEO.len() - 80..SKOPEO.len()) {
            assert!(read_bytes(&SKOPEO[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn an_end_that_lies_is_refused_or_not_believed() {
        let end = SKOPEO.len() - FOOTER_LEN;
        for at in end..SKOPEO.len() {
            let mut bytes = SKOPEO.to_vec();
            bytes[at] ^= 0x81;
            let believed = matches!(read_bytes(&bytes), Ok(Found::Layer(LayerFile { lazy: Some(_), .. })));
            assert!(!believed, "byte {at} of {end}");
        }
    }

    #[test]
    fn a_seek_table_must_add_up_to_the_file() {
        let frame = zstd::encode_all(&b"text"[..], 1).unwrap();
        let len = u32::try_from(frame.len()).unwrap();
        assert!(matches!(read_bytes(&frames(&[(len, 4)], &frame)), Ok(Found::Layer(_))));
        for lens in [&[(len + 1, 4)][..], &[(len, 4), (u32::MAX, u32::MAX)], &[]] {
            assert!(matches!(read_bytes(&frames(lens, &frame)), Err(FileError::Frames { .. })), "{lens:?}");
        }
        // A table that claims more frames than the file has bytes.
        let mut bytes = frames(&[(len, 4)], &frame);
        let count = bytes.len() - seekable::FOOTER_LEN;
        bytes[count + 2] = 0xff;
        assert!(matches!(read_bytes(&bytes), Err(FileError::Range { .. })));
    }
}
