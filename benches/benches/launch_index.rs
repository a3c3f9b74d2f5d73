//! A launch index of 100,000 entries: opened from its file, looked up in, listed.
//!
//! Opening must stay under 5 ms: it stands between a container's start and its first file.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jaunt_formats::launch::{self, Blob, Compression, InodeId, LaunchLayer};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{
    BlobOffset, Content, DiffId, Digest, DigestScope, Entry, EntryKind, EntryPath, Span, SpanDigest,
    TarOffset, Timestamp,
};
use jaunt_layerfs::index_file::{MappedIndex, open_index};

const LAYERS: u16 = 10;
/// Directories of a layer, in two levels, and files in each of the lower ones: 10,000 entries a layer.
const DIRS: u32 = 10;
const SUBDIRS: u32 = 9;
const FILES: u32 = 100;
/// As files of 35 kB on average make them.
const SPANS: u32 = 700;
const SPAN_LEN: u32 = 512 << 10;
const LARGE_DIR: &str = "usr/lib/layer-0/all";

fn entry(path: &str, kind: EntryKind) -> Entry {
    let path = EntryPath::parse(path.as_bytes()).unwrap();
    let mtime = Timestamp { seconds: 1_700_000_000 + path.as_bytes().len() as i64, nanoseconds: 0 };
    Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

fn files(dir: &str, count: u32, at: &mut u64) -> Vec<Entry> {
    let file = |number| {
        *at += 4096;
        let content = Content::Contiguous(TarOffset(*at));
        entry(
            &format!("{dir}/module_{number:04}.cpython-311.pyc"),
            EntryKind::Regular { size: 2048, content },
        )
    };
    (0..count).map(file).collect()
}

fn entries(layer: u16) -> Vec<Entry> {
    let (root, mut at) = (format!("usr/lib/layer-{layer}"), 0);
    let mut all = vec![entry("usr", EntryKind::Directory), entry("usr/lib", EntryKind::Directory)];
    all.push(entry(&root, EntryKind::Directory));
    for dir in 0..DIRS {
        all.push(entry(&format!("{root}/package-{dir}"), EntryKind::Directory));
        for subdir in 0..SUBDIRS {
            let subdir = format!("{root}/package-{dir}/part-{subdir}");
            all.push(entry(&subdir, EntryKind::Directory));
            all.extend(files(&subdir, FILES, &mut at));
        }
    }
    all.push(entry(&format!("{root}/all"), EntryKind::Directory));
    let missing = 10_000 - u32::try_from(all.len()).unwrap();
    all.extend(files(&format!("{root}/all"), missing, &mut at));
    all
}

fn layer(number: u16) -> LaunchLayer {
    let digest = |what: &str| Digest::of(format!("{what}{number}").as_bytes());
    let span = |at: u32| Span {
        blob_offset: BlobOffset(u64::from(at) * 200_000),
        compressed_len: 200_000,
        tar_offset: TarOffset(u64::from(at) * u64::from(SPAN_LEN)),
        tar_len: SPAN_LEN,
        digest: SpanDigest(*digest(&at.to_string()).as_bytes()),
    };
    let len = u64::from(SPANS) * 200_000;
    LaunchLayer {
        diff_id: DiffId(digest("diff")),
        original: Blob { digest: digest("original"), len, compression: Compression::Gzip },
        converted: Blob { digest: digest("converted"), len, compression: Compression::Zstd },
        tar_len: u64::from(SPANS) * u64::from(SPAN_LEN),
        scope: DigestScope::Compressed,
        spans: (0..SPANS).map(span).collect(),
    }
}

fn index() -> Vec<u8> {
    let mut builder = TreeBuilder::new();
    (0..LAYERS).for_each(|layer| builder.push_layer(entries(layer)).unwrap());
    let layers: Vec<_> = (0..LAYERS).map(layer).collect();
    launch::write(&layers, builder.finish()).unwrap()
}

fn find(index: &MappedIndex, prefix: u16, path: &str) -> Option<InodeId> {
    let view = index.view(prefix).unwrap();
    let root = view.root().unwrap();
    path.split('/').try_fold(root, |dir, name| view.lookup(dir, name.as_bytes()).unwrap())
}

fn launch_index(criterion: &mut Criterion) {
    let bytes = index();
    let packed = launch::pack(&bytes).unwrap().len();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let index = open_index(file.path()).unwrap();
    let count = index.entry_count();
    println!("{count} entries: {} bytes mapped, {packed} pushed", bytes.len());

    let mut group = criterion.benchmark_group("launch index of 100,000 entries");
    group.bench_function("open", |bench| bench.iter(|| open_index(black_box(file.path())).unwrap()));
    for prefix in [LAYERS, LAYERS / 2] {
        let mut numbers = (0..).map(|n: u32| n.wrapping_mul(2_654_435_761));
        let path = || {
            let n = numbers.next().unwrap();
            let (layer, dir, subdir, file) = (n % 5, n / 5 % DIRS, n / 50 % SUBDIRS, n / 450 % FILES);
            format!("usr/lib/layer-{layer}/package-{dir}/part-{subdir}/module_{file:04}.cpython-311.pyc")
        };
        let mut path = path;
        group.bench_function(format!("look up a path of 6, {prefix} layers"), |bench| {
            bench.iter_batched(&mut path, |path| find(&index, prefix, &path).unwrap(), BatchSize::SmallInput)
        });
    }
    let dir = find(&index, LAYERS, LARGE_DIR).unwrap();
    let view = index.view(LAYERS).unwrap();
    let children = || view.children(dir, 0).unwrap().map(Result::unwrap);
    group.throughput(Throughput::Elements(children().count() as u64));
    group.bench_function("list a directory, with attributes", |bench| {
        bench.iter(|| children().map(|child| index.attributes(child.inode).unwrap().size).sum::<u64>())
    });
    group.finish();
}

criterion_group!(benches, launch_index);
criterion_main!(benches);
