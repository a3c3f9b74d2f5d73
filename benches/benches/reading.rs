//! A read that is answered from the local store, and what a miss costs beside the network: one span verified and
//! decoded.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jaunt_benches::layerfs::served;
use jaunt_layerfs::fs::{Ino, LayerFs, MOUNT_ROOT};
use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::layers::Settings;
use jaunt_layerfs::source::{MemorySource, Source};
use jaunt_layerfs::verify::verify;

/// Bytes of tar a span, as the converter cuts them, and spans of the file.
const SPAN: usize = 512 << 10;
const SPANS: usize = 16;

/// Bytes that compress to about half.
fn content() -> Vec<u8> {
    let word = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes();
    (0..(SPAN * SPANS / 8) as u64).flat_map(word).collect()
}

fn reading(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let (layer, blob) = served::layer(&content(), SPAN).unwrap();
    let first = layer.spans[0];
    let compressed = blob.slice(..first.compressed_len as usize);
    let index = directory.path().join("index");
    let entries = vec![served::file("file", 0, layer.tar_len).unwrap()];
    served::write_index(&index, std::slice::from_ref(&layer), vec![entries]).unwrap();

    let mut group = criterion.benchmark_group("a span of 512 KiB");
    group.throughput(Throughput::Bytes(SPAN as u64));
    group.bench_function("verify and decode", |bench| {
        bench.iter(|| verify(&first, layer.scope, black_box(&compressed)).unwrap())
    });
    group.finish();

    let runtime = served::runtime().unwrap();
    let _context = runtime.enter();
    let layers = served::node(&directory.path().join("store"), Settings::default()).unwrap();
    let source: Arc<dyn Source> = Arc::new(MemorySource::new([(layer.converted.digest, blob)]));
    let fs = LayerFs::new(open_index(&index).unwrap(), 1, "bench".to_owned(), &layers, &[source]).unwrap();
    let root = fs.lookup(MOUNT_ROOT, b"fs").unwrap().unwrap();
    let file: Ino = fs.lookup(root, b"file").unwrap().unwrap();
    let all = u32::try_from(layer.tar_len).unwrap();
    runtime.block_on(fs.read(file, 0, all)).unwrap();

    let mut group = criterion.benchmark_group("a read that hits");
    for len in [4 << 10, 128 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(len.into()));
        let mut places =
            (0..).map(|n: u64| n.wrapping_mul(2_654_435_761) % u64::from(all / len) * u64::from(len));
        group.bench_function(format!("{} KiB", len >> 10), |bench| {
            bench.iter(|| fs.read_local(file, places.next().unwrap(), len).unwrap().unwrap())
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("names");
    group.bench_function("look one up, with attributes", |bench| {
        bench.iter(|| fs.attributes(fs.lookup(root, black_box(b"file")).unwrap().unwrap()).unwrap())
    });
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
