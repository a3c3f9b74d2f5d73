//! zstd:chunked: a layer as zstd frames cut at its files, with a table of contents behind them.
//!
//! Writing is in three steps, so that the costly one can run on many threads: a [`Planner`] is pushed
//! the tar and cuts it into spans of frames; a [`SpanCompressor`] compresses one span; a
//! [`BlobWriter`] takes the compressed spans in order and ends the blob. The blob depends on the
//! tar, the level and the encoder's version alone.
//!
//! Format: containers/storage, pkg/chunked; `layout` draws the bytes.

mod catalogue;
mod crc64;
mod draft;
mod entries;
pub mod foreign;
mod layout;
mod level;
mod parts;
mod paths;
mod plan;
mod reader;
mod replay;
#[cfg(test)]
mod samples;
mod tar_split;
mod toc;
mod weight;
mod writer;

pub use crate::compression::TableError;
pub use entries::{EntriesError, read_entries};
pub use layout::{Annotations, AnnotationsError, FOOTER_LEN, Footer, Position};
pub use plan::{FRAME_LEN, FramePlan, LayerPlan, Obstacle, Part, PlanError, Planner, SPAN_LEN, SpanPlan};
pub use reader::{MAX_TOC_LEN, TocError, content_digests, decode_toc};
pub use replay::TarSplitError;
pub use toc::{Toc, TocEntry};
pub use writer::{BlobWriter, ConvertedLayer, FORMAT_RECIPE, PackedSpan, SpanCompressor};
