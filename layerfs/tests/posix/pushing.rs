//! What a boot pack brings is in the kernel's page cache before anybody asks for it.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jaunt_formats::Digest;
use jaunt_formats::boot::{Extent, PACK_LEVEL, Pack, PackWriter};
use jaunt_layerfs::boot::{Boot, Expected, Loaded, NamedPack};
use jaunt_layerfs::fs::{LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse::{self, Adapter, Breaker, MountOptions, PageSink, SessionHandle};
use jaunt_layerfs::index_file::{MappedIndex, open_index};
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::source::{MemorySource, Source};
use jaunt_layerfs::store::{LargeFiles, Store};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tokio::runtime::Runtime;

use crate::fixture::{Image, dir, file, hard_link, noise, sparse};
use crate::mounted::can_mount;

/// One ends in the middle of a page, one is of several frames, one has a hole; of the last, nothing is in the pack.
const HOT: [&str; 3] = ["deep/er/short", "large", "sparse"];
const COLD: &str = "cold";
/// Beside a file that is in the pack, and beside none.
const BESIDE: [&str; 2] = ["deep/beside", "else/where"];

fn content(path: &str) -> Vec<u8> {
    match path {
        "deep/er/short" => noise(1, 5000),
        "large" => noise(2, 6_000_000),
        "sparse" => [vec![0; 8192], noise(3, 4096), vec![0; 4096]].concat(),
        _ => noise(4, 4096),
    }
}

fn image() -> Image {
    let sparse = sparse("sparse", 16_384, &[(8192, &content("sparse")[8192..12_288])]);
    let plain = |path| file(path, content(path));
    let again = hard_link("deep/again", HOT[0]);
    let nodes =
        vec![dir("deep"), dir("deep/er"), plain(HOT[0]), again, plain(HOT[1]), sparse, plain(BESIDE[0])];
    Image::new(vec![nodes, vec![plain(COLD), dir("else"), plain(BESIDE[1])]])
}

/// A thread in the place of the process that stores pages.
struct Sink {
    stream: UnixStream,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Sink {
    fn new(root: PathBuf, device: OwnedFd) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        Self { stream, thread: Some(std::thread::spawn(move || fuse::store_pages(&root, theirs, device))) }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl PageSink for Sink {
    fn close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn has_ended(&mut self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn breaker(&self) -> Breaker {
        let stream = self.stream.try_clone().unwrap();
        Box::new(move || drop(stream.shutdown(Shutdown::Both)))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        let _ = self.thread.take().unwrap().join().unwrap();
    }
}

struct Bed {
    directory: tempfile::TempDir,
    runtime: Runtime,
    layers: Layers,
    boot: Arc<Boot>,
    fs: Arc<LayerFs>,
    session: SessionHandle,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let image = image();
        fs::write(directory.path().join("index"), &image.index).unwrap();
        let blobs = image.blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into()));
        let source: Arc<dyn Source> = Arc::new(MemorySource::new(blobs));
        let store = Arc::new(Store::open(&directory.path().join("layers")).unwrap());
        let settings = Settings { ahead: false, ..Settings::default() };
        let layers = Layers::new(store, settings);
        let index = open_index(&directory.path().join("index")).unwrap();
        let boot = Arc::new(Boot::default());
        let fs = runtime.block_on(async { LayerFs::new(index, 2, "test".to_owned(), &layers, &[source]) });
        let fs = Arc::new(fs.unwrap().with_boot(Some(boot.clone())));
        let mount = directory.path().join("mnt");
        fs::create_dir(&mount).unwrap();
        let mounted = fuse::mount::mount(&mount, &MountOptions::default()).unwrap();
        let adapter = Adapter::new(fs.clone(), runtime.handle().clone());
        let device = mounted.device.try_clone().unwrap();
        let session = fuse::serve(adapter, mounted.device, &mounted.negotiated, 2).unwrap();
        let bed = Self { directory, runtime, layers, boot, fs, session };
        let sink = Sink::new(bed.root(), device);
        bed.runtime.block_on(async { bed.session.push(&bed.fs, Box::new(sink)) });
        bed
    }

    fn mount(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn root(&self) -> PathBuf {
        self.mount().join(ROOT_NAME)
    }

    /// Loads a pack of what is hot.
    fn load(&self) {
        let (index, digest) = (self.fs.index(), Digest::of(b"index"));
        let Pack { bytes, table } = pack(index, digest);
        let named = NamedPack { digest: Digest::of(&bytes), len: bytes.len() as u64, table, learnt: true };
        let source = Arc::new(MemorySource::new([(named.digest, bytes.into())]));
        let layers = index.layers().iter().cloned().zip(LargeFiles::of_layers(index)).collect();
        let expected = std::future::ready(Some(Expected { index: digest, layers }));
        let shelf = self.directory.path().join("shelf");
        let loaded = self.boot.load(named, source, &self.layers, &shelf, expected);
        assert_eq!(self.runtime.block_on(loaded).unwrap(), Loaded::Whole);
    }

    fn pushed(&self) -> u64 {
        self.layers.metrics().boot_pushed_bytes.get()
    }

    fn await_pushed(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.session.is_pushing() {
            assert!(Instant::now() < deadline, "{} bytes so far", self.pushed());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fuse::mount::detach(&self.mount());
    }
}

fn pack(index: &MappedIndex, digest: Digest) -> Pack {
    let view = index.view(2).unwrap();
    let mut pack = PackWriter::new(digest, PACK_LEVEL).unwrap();
    for path in HOT {
        let names = path.split('/').map(str::as_bytes);
        let inode = names.fold(view.root().unwrap(), |dir, name| view.lookup(dir, name).unwrap().unwrap());
        let (found, bytes) = (index.content(inode).unwrap(), content(path));
        for part in &found.extents {
            // Cut where no page ends.
            for start in (0..part.len).step_by(1_000_000) {
                let len = (part.len - start).min(1_000_000);
                let at = usize::try_from(part.file_offset + start).unwrap();
                let tar_offset = jaunt_formats::TarOffset(part.tar_offset.0 + start);
                let extent = Extent { layer: found.layer, tar_offset, len: len as u32 };
                pack.push(extent, &bytes[at..at + len as usize]).unwrap();
            }
        }
    }
    pack.finish().unwrap()
}

fn read(root: &Path, path: &str) {
    assert!(fs::read(root.join(path)).unwrap() == content(path), "{path}");
}

#[test]
fn what_a_pack_brings_is_read_without_asking_us() {
    if !can_mount() {
        return;
    }
    // A machine may take pages back ahead of any need (DAMON), by regions of memory that nobody has used for a while: what was just stored may
    // lie in one. Not each time.
    let asked = (0..3).map(|_| reads_of_what_was_pushed()).find(|reads| *reads == 0);
    assert_eq!(asked, Some(0), "the kernel had them");
}

/// Reads that reach us of files that were pushed.
fn reads_of_what_was_pushed() -> u64 {
    let bed = Bed::new();
    assert_eq!(bed.pushed(), 0);
    bed.load();
    // Of the sparse file, the page that the pack has: holes are nothing that it brings.
    bed.await_pushed();
    assert_eq!(bed.pushed(), 5000 + 6_000_000 + 4096);
    let reads = || bed.layers.metrics().reads.get() + bed.layers.metrics().misses.get();
    read(&bed.root(), HOT[0]);
    read(&bed.root(), HOT[1]);
    assert!(fs::read(bed.root().join("deep/again")).unwrap() == content(HOT[0]));
    let asked = reads();
    if asked == 0 {
        assert_eq!(bed.boot.figures().used_bytes, 0, "nobody was seen to use them");
    }
    read(&bed.root(), HOT[2]);
    read(&bed.root(), COLD);
    assert!(reads() > asked, "what was not pushed is read");
    asked
}

#[test]
fn names_beside_what_a_pack_brings_are_found_without_asking_us() {
    if !can_mount() {
        return;
    }
    let bed = Bed::new();
    let root = fs::File::open(bed.root()).unwrap();
    // From what the kernel knows, or not at all.
    let cached = |path: &str| {
        let (flags, resolve) = (OFlags::PATH | OFlags::CLOEXEC, ResolveFlags::CACHED);
        rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve).map(drop)
    };
    assert_eq!(cached(BESIDE[0]), Err(Errno::AGAIN));
    bed.load();
    bed.await_pushed();
    // Of a file with two names, the first is looked up.
    for path in ["deep/again", HOT[1], HOT[2], BESIDE[0], COLD] {
        assert_eq!(cached(path), Ok(()), "{path}");
    }
    assert_eq!(cached(BESIDE[1]), Err(Errno::AGAIN), "nothing in its directory is hot");
    read(&bed.root(), BESIDE[0]);
    read(&bed.root(), BESIDE[1]);
}

#[test]
fn a_mount_that_is_pushed_to_can_be_ended_at_any_moment() {
    if !can_mount() {
        return;
    }
    for enough in [0, 1, 3_000_000] {
        let bed = Bed::new();
        if enough > 0 {
            bed.load();
        }
        while bed.pushed() < enough {
            std::thread::sleep(Duration::from_micros(50));
        }
        bed.session.stop_pushing();
        let (then, unmounted) = (bed.pushed(), rustix::mount::unmount(bed.mount(), UnmountFlags::empty()));
        unmounted.unwrap_or_else(|error| panic!("after {then} bytes: {error}"));
        assert!(!bed.session.is_pushing());
        assert_eq!(bed.pushed(), then);
    }
}

#[test]
fn what_was_pushed_of_a_pack_that_is_not_believed_any_more_is_forgotten() {
    if !can_mount() {
        return;
    }
    let bed = Bed::new();
    bed.load();
    bed.await_pushed();
    read(&bed.root(), HOT[0]);
    // The first layer's blob is found to lie: what the same artifact's pack says of it is not believed either, and there is no other.
    bed.fs.layers()[0].file().quarantine("a test says so").unwrap();
    assert!(bed.session.forget_condemned(&bed.fs).unwrap() >= HOT.len());
    for path in HOT {
        assert!(fs::read(bed.root().join(path)).is_err(), "{path}: the kernel still has it");
    }
}
