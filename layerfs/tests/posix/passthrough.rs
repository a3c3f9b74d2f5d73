//! Mounts over chains that are complete: the kernel reads large files by itself, whoever serves the mount.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use jaunt_layerfs::fs::{LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse::init::InitError;
use jaunt_layerfs::fuse::{
    self, Adapter, BackingIds, KernelFeatures, MountOptions, Mounted, Negotiated, Numbering,
};
use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::source::{MemorySource, Source};
use jaunt_layerfs::store::Store;
use tokio::runtime::Runtime;

use crate::fixture::{Image, file, hard_link, noise, sparse};
use crate::mounted::can_mount;

const DIRECTORY: &str = "TEST_COMPLETE_DIRECTORY";
const NEGOTIATED: &str = "TEST_COMPLETE_NEGOTIATED";
/// Not a whole number of pages.
const LARGE: usize = (3 << 20) + 17;

fn image() -> Image {
    Image::new(vec![
        vec![file("small", "small"), file("first", noise(1, LARGE)), file("second", noise(2, LARGE))],
        vec![
            file("third", noise(3, LARGE)),
            hard_link("linked", "third"),
            file("above", noise(4, 2 << 20)),
            sparse("holes", 4 << 20, &[(1 << 20, &noise(5, 2 << 20))]),
        ],
    ])
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The chain in a directory that holds its index and its store.
fn chain(directory: &Path, sources: &[Arc<dyn Source>]) -> LayerFs {
    let layers = Layers::new(Arc::new(Store::open(&directory.join("layers")).unwrap()), Settings::default());
    let index = open_index(&directory.join("index")).unwrap();
    LayerFs::new(index, 2, "test".to_owned(), &layers, sources).unwrap()
}

/// A directory with a complete chain.
fn complete() -> tempfile::TempDir {
    let (directory, image, runtime) = (tempfile::tempdir().unwrap(), image(), runtime());
    fs::write(directory.path().join("index"), &image.index).unwrap();
    fs::create_dir(directory.path().join("mnt")).unwrap();
    let blobs = image.blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into()));
    let source: Arc<dyn Source> = Arc::new(MemorySource::new(blobs));
    let _context = runtime.enter();
    let fs = chain(directory.path(), &[source]);
    assert!(fs.hold_complete().is_none());
    for layer in fs.layers() {
        runtime.block_on(layer.read(0..layer.launch().tar_len)).unwrap();
        layer.file().mark_complete().unwrap();
    }
    assert!(fs.hold_complete().is_some());
    directory
}

/// A mount with passthrough, served by child processes; unmounted whatever happens.
struct Served {
    directory: tempfile::TempDir,
    mounted: Mounted,
    server: Child,
}

impl Served {
    fn new(features: KernelFeatures) -> Self {
        Self::numbered(features, Numbering::BY_IMAGE)
    }

    /// One whose inodes have other numbers.
    fn numbered(features: KernelFeatures, numbering: Numbering) -> Self {
        let directory = complete();
        let options = MountOptions { passthrough: true, features, ..MountOptions::default() };
        let mut mounted = fuse::mount::mount(&directory.path().join("mnt"), &options).unwrap();
        mounted.negotiated.numbering = numbering;
        let server = start(directory.path(), &mounted);
        Self { directory, mounted, server }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("mnt").join(ROOT_NAME)
    }

    /// kill -9, and another process in its place.
    fn replace_server(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        self.server = start(self.directory.path(), &self.mounted);
    }

    /// The store's file with these contents from its first byte on.
    fn backing_of(&self, content: &[u8]) -> PathBuf {
        let mut pending = vec![self.directory.path().join("layers")];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
                if entry.file_type().unwrap().is_dir() {
                    pending.push(entry.path());
                } else if fs::read(entry.path()).unwrap() == content {
                    return entry.path();
                }
            }
        }
        panic!("the store has no file of its own for this content");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fuse::mount::abort(&self.directory.path().join("mnt"));
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn start(directory: &Path, mounted: &Mounted) -> Child {
    let negotiated: Vec<String> = mounted.negotiated.to_bytes().iter().map(u8::to_string).collect();
    Command::new(std::env::current_exe().unwrap())
        .args(["passthrough::serving_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(NEGOTIATED, negotiated.join(" "))
        .stdin(Stdio::from(mounted.device.try_clone().unwrap()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test: the life of a serving process, when started by one.
#[test]
fn serving_process() {
    let (Ok(directory), Ok(negotiated)) = (std::env::var(DIRECTORY), std::env::var(NEGOTIATED)) else {
        return;
    };
    let bytes: Vec<u8> = negotiated.split(' ').map(|byte| byte.parse().unwrap()).collect();
    let negotiated = Negotiated::from_bytes(&bytes).unwrap();
    let (directory, runtime) = (Path::new(&directory), runtime());
    let _context = runtime.enter();
    let fs = Arc::new(chain(directory, &[]));
    let device = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut adapter = match Adapter::resuming(fs.clone(), runtime.handle().clone(), &negotiated) {
        // As the daemon does with a mount that it cannot answer for.
        Err(InitError::Numbering(_)) => {
            return fuse::serve(fuse::Orphan, device, &negotiated, 2).unwrap().join().unwrap();
        }
        adapter => adapter.unwrap(),
    };
    if negotiated.has_passthrough() {
        let record = directory.join("ids");
        let ids = BackingIds::open(&record).or_else(|_| BackingIds::create(&record)).unwrap();
        adapter = adapter.with_passthrough(fs.hold_complete(), ids);
    }
    fuse::serve(adapter, device, &negotiated, 2).unwrap().join().unwrap();
}

fn contents() -> [(&'static str, Vec<u8>); 7] {
    let holes = [vec![0; 1 << 20], noise(5, 2 << 20), vec![0; 1 << 20]].concat();
    [
        ("small", b"small".to_vec()),
        ("first", noise(1, LARGE)),
        ("second", noise(2, LARGE)),
        ("third", noise(3, LARGE)),
        ("linked", noise(3, LARGE)),
        ("above", noise(4, 2 << 20)),
        ("holes", holes),
    ]
}

#[test]
fn large_files_are_read_by_the_kernel_itself() {
    if !can_mount() {
        return;
    }
    let served = Served::new(KernelFeatures::ALL);
    if !served.mounted.negotiated.has_passthrough() {
        return eprintln!("skipped: this kernel has no FUSE passthrough (Linux 6.9 has)");
    }
    for (name, content) in contents() {
        assert!(fs::read(served.root().join(name)).unwrap() == content, "{name}");
    }
    let open = File::open(served.root().join("third")).unwrap();
    // Whoever changes the store's file shows that nobody else is asked.
    let mut backing = File::options().write(true).open(served.backing_of(&noise(3, LARGE))).unwrap();
    backing.seek(SeekFrom::Start(1_000_000)).unwrap();
    backing.write_all(b"tampered with").unwrap();
    let mut bytes = [0; 13];
    open.read_exact_at(&mut bytes, 1_000_000).unwrap();
    assert_eq!(&bytes, b"tampered with");
}

/// P5: Files that the kernel was handed to read by itself stay open and mapped without a worker, and the next worker
/// opens them as the last one did.
#[test]
#[allow(unsafe_code)]
fn what_was_handed_out_holds_for_the_next_process() {
    if !can_mount() {
        return;
    }
    let mut served = Served::new(KernelFeatures::ALL);
    let first = File::open(served.root().join("first")).unwrap();
    // SAFETY: nothing changes the file while it is mapped.
    let mapped = unsafe { memmap2::Mmap::map(&first).unwrap() };
    let small = File::open(served.root().join("small")).unwrap();
    for _ in 0..3 {
        served.replace_server();
        // The same inode again, while it is open; others for the first time; and one that has no backing file.
        for (name, content) in contents() {
            assert!(fs::read(served.root().join(name)).unwrap() == content, "{name}");
        }
        assert!(mapped[..] == noise(1, LARGE)[..]);
        let mut bytes = [0; 5];
        small.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"small");
    }
    drop((first, mapped, small));
    assert!(fs::read(served.root().join("first")).unwrap() == noise(1, LARGE));
}

/// P7: Where a service manager keeps its descriptors, the daemon may be killed, restarted, stopped and started, or replaced by
/// another version: running containers go on, and their reads are answered rightly.
#[test]
fn the_next_process_answers_for_the_numbers_that_the_kernel_was_told() {
    if !can_mount() {
        return;
    }
    for numbering in [Numbering::BY_INDEX, Numbering::BY_IMAGE] {
        let mut served = Served::numbered(KernelFeatures::ALL.without_passthrough(), numbering);
        let root = served.root();
        let numbers = || -> BTreeMap<_, _> {
            let listed = fs::read_dir(&root).unwrap().map(Result::unwrap);
            listed.map(|entry| (entry.file_name(), (entry.ino(), entry.metadata().unwrap().ino()))).collect()
        };
        let before = numbers();
        assert!(before.values().all(|(listed, shown)| listed == shown), "{before:?}");
        // Inode after inode, by the index; four apart, by the image.
        let is_by_index = before.values().all(|(_, shown)| (16..24).contains(shown));
        assert_eq!(is_by_index, numbering == Numbering::BY_INDEX, "{before:?}");
        // The kernel learns that nobody needs to be told of a close: a process that starts closes what this one has open.
        drop(File::open(root.join("small")).unwrap());
        let open = contents().map(|(name, content)| (File::open(root.join(name)).unwrap(), content));
        for _ in 0..2 {
            served.replace_server();
            for (file, content) in &open {
                let mut bytes = vec![0; content.len()];
                file.read_exact_at(&mut bytes, 0).unwrap();
                assert!(bytes == *content, "{numbering:?}");
                // Not what the kernel has kept.
                rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            }
            assert_eq!(numbers(), before);
            for (name, content) in contents() {
                assert!(fs::read(root.join(name)).unwrap() == content, "{name} {numbering:?}");
            }
        }
    }
}

/// A version that is gone back to knows no numbers of the one after it: it must not take them for those of other files.
#[test]
fn numbers_that_a_process_does_not_know_are_errors_until_one_comes_that_does() {
    if !can_mount() {
        return;
    }
    let mut served = Served::new(KernelFeatures::ALL.without_passthrough());
    let root = served.root();
    drop(File::open(root.join("small")).unwrap());
    let first = File::open(root.join("first")).unwrap();
    let read = || {
        rustix::fs::fadvise(&first, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut bytes = vec![0; LARGE];
        first.read_exact_at(&mut bytes, 0).map(|()| bytes)
    };
    assert!(read().unwrap() == noise(1, LARGE));
    let known = served.mounted.negotiated.to_bytes();
    let later = [&known[..known.len() - 2], &[7, 1]].concat();
    served.mounted.negotiated = Negotiated::from_bytes(&later).unwrap();
    served.replace_server();
    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    assert_eq!(read().unwrap_err().raw_os_error(), eio);
    assert_eq!(fs::metadata(root.join("third")).unwrap_err().raw_os_error(), eio);
    // What is on record of the mount has not suffered.
    assert_eq!(served.mounted.negotiated.to_bytes()[..], later);
    served.mounted.negotiated = Negotiated::from_bytes(&known).unwrap();
    served.replace_server();
    assert!(read().unwrap() == noise(1, LARGE));
    assert!(fs::read(root.join("third")).unwrap() == noise(3, LARGE));
}

#[test]
fn an_older_kernel_asks_for_every_read() {
    if !can_mount() {
        return;
    }
    let served = Served::new(KernelFeatures::ALL.without_passthrough());
    assert!(!served.mounted.negotiated.has_passthrough());
    for (name, content) in contents() {
        assert!(fs::read(served.root().join(name)).unwrap() == content, "{name}");
    }
}

#[test]
fn a_complete_chain_below_overlayfs_is_read_as_any_other() {
    if !can_mount() {
        return;
    }
    let served = Served::new(KernelFeatures::ALL);
    let path = |name: &str| served.directory.path().join(name);
    for name in ["upper", "work", "merged"] {
        fs::create_dir(path(name)).unwrap();
    }
    let lower = served.root();
    let options = format!(
        "index=off,xino=on,lowerdir={},upperdir={},workdir={}",
        lower.display(),
        path("upper").display(),
        path("work").display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    let (merged, flags) = (path("merged"), rustix::mount::MountFlags::empty());
    rustix::mount::mount("overlay", &merged, "overlay", flags, options.as_c_str()).unwrap();
    let all = contents().map(|(name, content)| fs::read(merged.join(name)).unwrap() == content);
    fs::write(merged.join("above"), "changed").unwrap();
    let changed = fs::read(merged.join("above")).unwrap();
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(all, [true; 7]);
    assert_eq!(changed, b"changed");
    assert!(fs::read(lower.join("above")).unwrap() == noise(4, 2 << 20));
}
