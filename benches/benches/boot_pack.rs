//! A boot pack on its way to where readers find it: its table read and checked, its frames verified, decoded and shelved.
//!
//! All of it is between the first Prepare and the program's first read, on processors that make the container meanwhile.
#![allow(clippy::unwrap_used)]

use std::future::ready;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jaunt_benches::layerfs::served;
use jaunt_formats::boot::{BootPack, Extent, Pack, PackWriter};
use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::{Digest, TarOffset};
use jaunt_layerfs::boot::{Boot, Expected, Loaded, NamedPack};
use jaunt_layerfs::layers::Settings;
use jaunt_layerfs::source::{MemorySource, Source};
use jaunt_layerfs::store::LargeFiles;

/// Content of the pack: what a start of python-pandas touches is four times that.
const CONTENT: usize = 8 << 20;
/// Bytes of tar a span, as the converter cuts them.
const SPAN: usize = 512 << 10;
/// As pages of scattered files make them.
const EXTENT: usize = 16 << 10;
/// Decoding does not depend on how hard somebody compressed.
const LEVEL: i32 = 3;
const INDEX: &[u8] = b"index";

/// Bytes that compress to about half.
fn content() -> Vec<u8> {
    let word = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes();
    (0..(CONTENT / 8) as u64).flat_map(word).collect()
}

/// A layer of that content, and a pack of all of it in the order from its end.
fn packed() -> (LaunchLayer, Pack) {
    let content = content();
    let (layer, _) = served::layer(&content, SPAN).unwrap();
    let mut pack = PackWriter::new(Digest::of(INDEX), LEVEL).unwrap();
    for (number, bytes) in content.chunks(EXTENT).enumerate().rev() {
        let tar_offset = TarOffset((number * EXTENT) as u64);
        pack.push(Extent { layer: 0, tar_offset, len: u32::try_from(EXTENT).unwrap() }, bytes).unwrap();
    }
    (layer, pack.finish().unwrap())
}

fn loading(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let (layer, Pack { bytes, table }) = packed();
    let (digest, len) = (Digest::of(&bytes), bytes.len() as u64);
    let named = NamedPack { digest, len, table, learnt: true };
    let head = bytes[..table.len()].to_vec();
    let layers = [layer];

    let mut group = criterion.benchmark_group("a boot pack of 8 MiB in 512 extents");
    group.bench_function("read and check its table", |bench| {
        bench.iter(|| BootPack::read(black_box(&head)).unwrap().check(Digest::of(INDEX), &layers).unwrap())
    });

    let runtime = served::runtime().unwrap();
    let _context = runtime.enter();
    let node = served::node(&directory.path().join("store"), Settings::default()).unwrap();
    let source: Arc<dyn Source> = Arc::new(MemorySource::new([(digest, Bytes::from(bytes))]));
    group.throughput(Throughput::Bytes(CONTENT as u64));
    group.bench_function("verify, decode and shelve it", |bench| {
        let load = |boot: Boot| {
            let large = vec![(layers[0].clone(), LargeFiles::default())];
            let expected = Expected { index: Digest::of(INDEX), layers: large };
            let path = directory.path().join("shelf");
            let loading = boot.load(named, source.clone(), &node, &path, ready(Some(expected)));
            assert!(matches!(runtime.block_on(loading).unwrap(), Loaded::Whole));
            boot
        };
        bench.iter_batched(|| Boot::of(&named), load, BatchSize::PerIteration)
    });
    group.finish();
}

criterion_group!(benches, loading);
criterion_main!(benches);
