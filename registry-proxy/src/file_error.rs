//! Why a file on disk cannot be told about: it is none of what a conversion makes, or it is damaged.

use std::io;

use jaunt_formats::launch::LaunchError;
use jaunt_formats::seekable::SeekTableError;
use jaunt_formats::zstd_chunked::TocError;

/// Why nothing can be told of a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    NotAFile,
    #[error("neither a launch index nor a layer in zstd: {0}")]
    Unknown(&'static str),
    #[error(
        "zstd, but no layer with a seek table or a table of contents at its end, nor a launch index ({0}): \
             another kind of file, or cut short"
    )]
    OtherZstd(LaunchError),
    #[error(
        "zstd, but no layer with a seek table or a table of contents at its end, and too large for a launch index: \
             another kind of file, or cut short"
    )]
    LargeZstd,
    #[error("damaged launch index, or another file: {0}")]
    Index(#[from] LaunchError),
    #[error("damaged layer: {0}")]
    SeekTable(#[from] SeekTableError),
    #[error(
        "damaged layer: its seek table adds up to {listed} bytes, and the file has {actual} before the table"
    )]
    Frames { listed: u64, actual: u64 },
    #[error("damaged layer: {what} of {len} bytes at {offset} does not lie within it, or is larger than any")]
    Range { what: &'static str, offset: u64, len: u64 },
    #[error("damaged layer: {0}")]
    Toc(#[from] TocError),
}
