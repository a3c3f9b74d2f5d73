//! The store against a naive model, power cuts, full disks, and time.

mod bitmap;
mod check;
mod crowd;
mod damage;
mod eviction;
mod files;
mod full_disk;
mod killed;
mod model;
mod power_cut;
mod quarantine;
mod shuttled;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use jaunt_formats::launch::{Blob, Compression};
use jaunt_formats::{BlobOffset, Digest, DigestScope, Span, SpanDigest, TarOffset};
use proptest::prelude::*;

use super::*;
use crate::store::cut::UNIT;
use crate::verify::TarBytes;
use crate::verify::tests::trusted;

/// A layer of this length, with nothing behind it.
pub(super) fn layer_of_one_span(len: u64) -> LaunchLayer {
    layer_of(Digest::of(&len.to_le_bytes()), &[(0, len)])
}

fn layer_of(digest: Digest, spans: &[(u64, u64)]) -> LaunchLayer {
    let (mut cut, mut at) = (Vec::new(), 0);
    for &(gap, len) in spans {
        at += gap;
        cut.push(Span {
            blob_offset: BlobOffset(at),
            compressed_len: len as u32,
            tar_offset: TarOffset(at),
            tar_len: len as u32,
            digest: SpanDigest([len as u8; 32]),
        });
        at += len;
    }
    let blob = Blob { digest, len: at, compression: Compression::Zstd };
    LaunchLayer {
        diff_id: DiffId(digest),
        original: blob,
        converted: blob,
        tar_len: at,
        scope: DigestScope::Uncompressed,
        spans: cut,
    }
}

/// A layer as podman's are seen: spans that start and end anywhere, with gaps between some.
struct Fixture {
    tar: Vec<u8>,
    layer: LaunchLayer,
    large: LargeFiles,
    directory: Arc<tempfile::TempDir>,
}

impl Fixture {
    fn new(spans: &[(u64, u64)], large: &[Range<u64>]) -> Self {
        // In memory where there is such a place: what is tested is not the disk.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self::new_in(Arc::new(directory.unwrap()), spans, large)
    }

    fn new_in(directory: Arc<tempfile::TempDir>, spans: &[(u64, u64)], large: &[Range<u64>]) -> Self {
        let len = spans.iter().map(|(gap, len)| gap + len).sum();
        let tar: Vec<u8> =
            (0..len).map(|at: u64| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        let layer = layer_of(Digest::of(&tar), spans);
        Self { tar, layer, large: large::tests::large(large), directory }
    }

    fn open(&self) -> Arc<LayerFile> {
        Store::open(self.directory.path()).unwrap().layer(&self.layer, &self.large)
    }

    fn place(&self) -> PathBuf {
        self.directory
            .path()
            .join(self.layer.diff_id.0.hex())
            .join(CutName::of(&self.layer, &self.large).to_string())
    }

    fn keep(&self, file: &LayerFile, span: usize) {
        self.try_keep(file, span).unwrap();
    }

    fn try_keep(&self, file: &LayerFile, span: usize) -> io::Result<()> {
        file.keep(&self.tar_bytes(span))
    }

    fn keep_original(&self, file: &LayerFile, span: usize) {
        file.keep_original(&self.tar_bytes(span)).unwrap();
    }

    fn tar_bytes(&self, span: usize) -> TarBytes {
        let range = self.layer.spans[span].tar_range();
        trusted(range.start, self.slice(&range))
    }

    /// Changes a bit behind the store's back; whether the disk has that byte at all.
    fn flip(&self, at: u64) -> bool {
        let own = self.large.ranges().iter().find(|large| large.contains(&at));
        let (path, offset) = match own {
            Some(large) => (self.place().join("large").join(large.start.to_string()), at - large.start),
            None => (self.place().join("data"), at),
        };
        let mut bytes = fs::read(&path).unwrap_or_default();
        let Some(byte) = bytes.get_mut(offset as usize) else { return false };
        *byte ^= 1;
        fs::write(path, bytes).unwrap();
        true
    }

    /// Every file of the layer.
    fn on_disk(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let in_dir =
            |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
        let verdicts = self.directory.path().join("verdicts");
        let all = in_dir(self.place()).chain(in_dir(self.place().join("large"))).chain(in_dir(verdicts));
        all.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    fn slice(&self, range: &Range<u64>) -> &[u8] {
        &self.tar[range.start as usize..range.end as usize]
    }

    /// Every unit's range, found without the code under test.
    fn units(&self) -> Vec<Range<u64>> {
        let units_of = |span: &Span| {
            let range = span.tar_range();
            range.clone().step_by(UNIT as usize).map(move |start| start..range.end.min(start + UNIT))
        };
        self.layer.spans.iter().flat_map(units_of).collect()
    }
}

/// Spans, and what of their tar lies in files of its own: anywhere, as a hostile index may have it.
fn spans() -> impl Strategy<Value = (Vec<(u64, u64)>, Vec<Range<u64>>)> {
    let gap = prop_oneof![3 => Just(0u64), 1 => 1..3000u64];
    let len = prop_oneof![1..1500u64, 16_000..17_000u64, 1..70_000u64];
    let large = (0..200_000u64, 1..90_000u64).prop_map(|(start, len)| start..start + len);
    (prop::collection::vec((gap, len), 1..8), prop::collection::vec(large, 0..3))
}

/// Spans of two files that meet within a block, a page and a unit of the disk.
#[test]
fn neighbours_that_share_a_block_do_not_vouch_for_each_other() {
    let fixture = Fixture::new(&[(0, 700), (0, 20_000), (36, 1)], &[]);
    let file = fixture.open();
    fixture.keep(&file, 0);
    assert!(file.has(&(0..700)) && !file.has(&(0..701)) && !file.has(&(700..701)));
    fixture.keep(&file, 1);
    assert_eq!(file.read(&(0..20_700)).unwrap(), fixture.tar[..20_700]);
    fixture.keep(&file, 2);
    let file = fixture.open();
    assert_eq!(file.read(&(699..20_700)).unwrap(), fixture.tar[699..20_700]);
    assert!(file.has(&(20_736..20_737)) && !file.has(&(20_699..20_737)), "nothing covers the gap");
    assert!(!file.has(&(20_736..20_738)), "nor what lies beyond the end");
}

#[test]
fn a_large_file_holds_its_content_from_its_first_byte() {
    let (large, len) = (1000..30_000u64, 50_000);
    let fixture = Fixture::new(&[(0, 20_000), (0, 30_000)], std::slice::from_ref(&large));
    let file = fixture.open();
    fixture.keep(&file, 0);
    fixture.keep(&file, 1);
    assert_eq!(file.read(&(0..len)).unwrap(), fixture.tar);
    assert_eq!(fs::read(fixture.place().join("large/1000")).unwrap(), fixture.slice(&large));
    let packed = fs::read(fixture.place().join("data")).unwrap();
    assert_eq!((&packed[..1000], &packed[30_000..]), (&fixture.tar[..1000], &fixture.tar[30_000..]));
    assert!(packed[1000..30_000].iter().all(|byte| *byte == 0));
    // An index that has it otherwise has another place, and finds nothing there.
    let store = Store::open(fixture.directory.path()).unwrap();
    assert!(!store.layer(&fixture.layer, &LargeFiles::default()).has(&(0..1)));
}

#[test]
fn what_another_version_left_is_dropped_and_nothing_else() {
    let fixture = Fixture::new(&[(0, 700)], &[]);
    fixture.keep(&fixture.open(), 0);
    let other = fixture.place().parent().unwrap().join("0123456789abcdef0123456789abcdef");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("data"), "x").unwrap();
    fs::write(fixture.directory.path().join("not-a-layer"), "x").unwrap();
    assert!(fixture.open().has(&(0..700)), "the same version finds its own");
    assert!(!other.exists() && fixture.directory.path().join("not-a-layer").exists());
}

#[test]
fn a_record_that_is_none_is_put_aside_and_the_layer_starts_anew() {
    let fixture = Fixture::new(&[(0, 100_000)], &[]);
    fixture.keep(&fixture.open(), 0);
    let record = fixture.place().join("units");
    for damage in [|bytes: &mut Vec<u8>| bytes[8] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(70)] {
        let mut bytes = fs::read(&record).unwrap();
        damage(&mut bytes);
        fs::write(&record, bytes).unwrap();
        let file = fixture.open();
        assert!(!file.has(&(0..1)));
        assert!(record.with_extension("damaged").exists());
        fixture.keep(&file, 0);
        assert_eq!(fixture.open().read(&(0..100_000)).unwrap(), fixture.tar);
    }
    // A power cut may leave a record without its header.
    fs::write(&record, vec![0; 80]).unwrap();
    assert!(!fixture.open().has(&(0..1)));
}
