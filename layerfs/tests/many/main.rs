//! Five hundred mounts of one node at once: each serves its own files, they share what they share, and what a mount
//! costs in memory is bounded.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../posix/fixture.rs"]
mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fixture::{Image, dir, file, noise};
use jaunt_layerfs::fs::{LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse::{self, Adapter, MountOptions, SessionHandle};
use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::source::{MemorySource, Source};
use jaunt_layerfs::store::Store;

const MOUNTS: usize = 500;
/// What a mount may cost: a twentieth more than is promised, for what a process has besides.
const MEMORY_A_MOUNT: u64 = (4 << 20) / 20 * 21;
const READERS: usize = 8;
const LEN: usize = 40_000;

/// A mount that goes away with this.
struct Mounted {
    point: PathBuf,
    session: Option<SessionHandle>,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let detached = fuse::mount::detach(&self.point);
        if let Some(session) = self.session.take().filter(|_| detached.is_ok() && !std::thread::panicking()) {
            let _ = session.join();
        }
    }
}

fn mount(at: &Path, index: &Path, prefix: u16, layers: &Layers, source: &Arc<dyn Source>) -> Mounted {
    fs::create_dir(at).unwrap();
    let sources = std::slice::from_ref(source);
    let fs = LayerFs::new(open_index(index).unwrap(), prefix, "many".to_owned(), layers, sources).unwrap();
    let mounted = fuse::mount::mount(at, &MountOptions::default()).unwrap();
    let mut guard = Mounted { point: at.to_owned(), session: None };
    let adapter = Adapter::new(Arc::new(fs), tokio::runtime::Handle::current());
    guard.session = Some(fuse::serve(adapter, mounted.device, &mounted.negotiated, 2).unwrap());
    guard
}

/// Memory of this process that is in no file.
fn private_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn image() -> Image {
    let layer =
        |number: u64| vec![dir(format!("d{number}")), file(format!("d{number}/file"), noise(number, LEN))];
    Image::new((0..4).map(layer).collect())
}

#[test]
fn five_hundred_mounts_serve_at_once_and_fetch_what_they_share_once() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: mounting needs root and /dev/fuse");
        return;
    }
    fuse::spare_buffers();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _context = runtime.enter();
    let directory = tempfile::tempdir().unwrap();
    let image = image();
    let index = directory.path().join("index");
    fs::write(&index, &image.index).unwrap();
    let spans = image.blobs.len();
    let blobs = image.blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into()));
    let memory = Arc::new(MemorySource::new(blobs));
    let source: Arc<dyn Source> = memory.clone();
    let store = Arc::new(Store::open(&directory.path().join("layers")).unwrap());
    let layers = Layers::new(store, Settings { ahead: false, ..Settings::default() });

    let before = private_memory();
    let prefix = |number: usize| u16::try_from(number % 4 + 1).unwrap();
    let mounts: Vec<Mounted> = (0..MOUNTS)
        .map(|number| {
            let at = directory.path().join(format!("mount-{number}"));
            mount(&at, &index, prefix(number), &layers, &source)
        })
        .collect();

    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mount) = mounts.get(number) else { break };
                    let root = mount.point.join(ROOT_NAME);
                    for layer in 0..u64::from(prefix(number)) {
                        let read = fs::read(root.join(format!("d{layer}/file"))).unwrap();
                        assert!(read == noise(layer, LEN), "mount {number}, layer {layer}");
                    }
                    let names = fs::read_dir(&root).unwrap().count();
                    assert_eq!(names, usize::from(prefix(number)), "mount {number}");
                }
            });
        }
    });
    assert_eq!(memory.fetches(), spans as u64, "each span once, for all mounts");
    let grown = private_memory().saturating_sub(before);
    let bound = MOUNTS as u64 * MEMORY_A_MOUNT;
    assert!(grown <= bound, "{grown} bytes for {MOUNTS} mounts");
    eprintln!("{} KiB of private memory a mount", grown / MOUNTS as u64 / 1024);
}
