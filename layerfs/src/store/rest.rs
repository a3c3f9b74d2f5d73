//! What no span of a layer covers: the headers and the padding between files, where frames end elsewhere.
//!
//! ```text
//! <cut>/rest   BLAKE3 of what follows (32), then the bytes of every gap in the order of the tar
//! ```
//!
//! No reader ever asks for it. It is what the diffID and the tree of such a layer are checked with, so it is kept with the
//! layer: the whole of it, or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use jaunt_formats::launch::LaunchLayer;

use super::layer_file::LayerFile;
use super::{StoreError, disk};

const REST: &str = "rest";
const HEAD: usize = 32;
/// Bytes that are copied, or hashed, at a time.
const PIECE: u64 = 1 << 20;

/// The bytes of a layer's gaps.
pub(crate) struct Rest {
    file: File,
    /// Each gap, and where its bytes begin in the file.
    gaps: Vec<(Range<u64>, u64)>,
}

/// The ranges of the tar that no span covers, in order.
pub(crate) fn gaps(layer: &LaunchLayer) -> impl Iterator<Item = Range<u64>> {
    let mut at = 0;
    let spans = layer.spans.iter().map(|span| span.tar_range());
    spans.chain(std::iter::once(layer.tar_len..layer.tar_len)).filter_map(move |span| {
        let gap = at..span.start;
        at = span.end;
        (!gap.is_empty()).then_some(gap)
    })
}

impl LayerFile {
    /// Keeps what no span covers, piece by piece as `read` gives it.
    ///
    /// # Errors
    /// It cannot be read, or the disk does not take it.
    pub(crate) fn keep_rest(
        &self,
        layer: &LaunchLayer,
        read: impl Fn(&Range<u64>) -> io::Result<Bytes>,
    ) -> Result<(), StoreError> {
        let path = self.directory.join(REST);
        let write = || {
            let new = path.with_extension("new");
            let (mut file, mut hash) = (BufWriter::new(File::create(&new)?), blake3::Hasher::new());
            file.write_all(&[0; HEAD])?;
            for gap in gaps(layer) {
                for start in gap.clone().step_by(usize::try_from(PIECE).unwrap_or(usize::MAX)) {
                    let bytes = read(&(start..gap.end.min(start + PIECE)))?;
                    hash.update(&bytes);
                    file.write_all(&bytes)?;
                }
            }
            file.seek(SeekFrom::Start(0))?;
            file.write_all(hash.finalize().as_bytes())?;
            disk::sync_file(&file.into_inner().map_err(io::IntoInnerError::into_error)?, &new)?;
            std::fs::rename(&new, &path)?;
            disk::sync_dir(&self.directory)
        };
        let fail = |source| StoreError { path: path.clone(), what: "keep what no span covers", source };
        self.on_disk()?;
        let kept = write();
        self.shared.note_kept(0, &kept);
        kept.map_err(fail)
    }

    /// What no span covers, if all of it is there and is what was written. Reads all of it.
    pub(crate) fn rest(&self, layer: &LaunchLayer) -> Option<Rest> {
        let (mut at, mut placed) = (HEAD as u64, Vec::new());
        for gap in gaps(layer) {
            let len = gap.end - gap.start;
            placed.push((gap, at));
            at += len;
        }
        let mut file = File::open(self.directory.join(REST)).ok()?;
        let mut head = [0; HEAD];
        file.read_exact(&mut head).ok()?;
        let mut hash = blake3::Hasher::new();
        hash.update_reader(&mut file).ok()?;
        let is_right = file.stream_position().ok()? == at && *hash.finalize().as_bytes() == head;
        is_right.then_some(Rest { file, gaps: placed })
    }
}

impl Rest {
    /// The bytes of a part of one gap.
    pub(crate) fn read(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let gap = self.gaps.partition_point(|(gap, _)| gap.end <= range.start);
        let (gap, at) =
            self.gaps.get(gap).filter(|(gap, _)| gap.start <= range.start && range.end <= gap.end)?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        self.file.read_exact_at(&mut bytes, at + (range.start - gap.start)).ok()?;
        Some(bytes)
    }
}
