//! A launch index mounted for real: what the kernel shows is what the entries say.
//!
//! Needs root and /dev/fuse; says so and passes otherwise.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jaunt_formats::launch::{self, Blob, Compression, LaunchLayer};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{
    BlobOffset, Content, DiffId, Digest, DigestScope, Entry, EntryKind, EntryPath, Span, SpanDigest,
    TarOffset, Timestamp, Xattr,
};
use jaunt_layerfs::fs::{LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse::{self, Adapter, MountOptions};
use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::source::{MemorySource, Source};
use jaunt_layerfs::store::Store;

const FILE_LEN: usize = 300_000;

/// Unmounts whatever happens; a mount that is left behind would hang the next test.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = fuse::mount::detach(&self.0);
    }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let path = EntryPath::parse(path.as_bytes()).unwrap();
    let mtime = Timestamp { seconds: 1_234_567_890, nanoseconds: 987_654_321 };
    Entry { path, kind, mode: 0o640, uid: 12, gid: 34, mtime, xattrs: Vec::new() }
}

fn file(path: &str, offset: u64) -> Entry {
    entry(path, EntryKind::Regular { size: FILE_LEN as u64, content: Content::Contiguous(TarOffset(offset)) })
}

/// One layer whose tar is `tar`, cut into spans of 128 KiB.
fn layer_of(tar: &[u8]) -> (LaunchLayer, Vec<u8>) {
    let (mut blob, mut spans) = (Vec::new(), Vec::new());
    for (at, part) in tar.chunks(128 << 10).enumerate() {
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(part.len()));
        zstd_safe::compress(&mut frame, part, 1).unwrap();
        spans.push(Span {
            blob_offset: BlobOffset(blob.len() as u64),
            compressed_len: u32::try_from(frame.len()).unwrap(),
            tar_offset: TarOffset((at * (128 << 10)) as u64),
            tar_len: u32::try_from(part.len()).unwrap(),
            digest: SpanDigest(*blake3::hash(&frame).as_bytes()),
        });
        blob.extend(frame);
    }
    let converted =
        Blob { digest: Digest::of(&blob), len: blob.len() as u64, compression: Compression::Zstd };
    let diff_id = DiffId(Digest::of(tar));
    let (tar_len, scope) = (tar.len() as u64, DigestScope::Compressed);
    (LaunchLayer { diff_id, original: converted, converted, tar_len, scope, spans }, blob)
}

fn index_bytes(entries: Vec<Vec<Entry>>, layers: &[LaunchLayer]) -> Vec<u8> {
    let mut builder = TreeBuilder::new();
    entries.into_iter().for_each(|entries| builder.push_layer(entries).unwrap());
    launch::write(layers, &builder.finish()).unwrap()
}

fn with_mount(entries: Vec<Entry>, tar: &[u8], check: impl FnOnce(&Path)) {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: mounting needs root and /dev/fuse");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (layer, blob) = layer_of(tar);
    let source: Arc<dyn Source> = Arc::new(MemorySource::new([(layer.converted.digest, blob.into())]));
    let index = directory.path().join("index");
    fs::write(&index, index_bytes(vec![entries], &[layer])).unwrap();
    let store = Arc::new(Store::open(&directory.path().join("layers")).unwrap());
    let layers = Layers::new(store, Settings::default());
    let layer_fs =
        LayerFs::new(open_index(&index).unwrap(), 1, "test".to_owned(), &layers, &[source]).unwrap();

    let point = directory.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let mounted = fuse::mount::mount(&point, &MountOptions::default()).unwrap();
    let guard = Mount(point.clone());
    let adapter = Adapter::new(Arc::new(layer_fs), runtime.handle().clone());
    let session = fuse::serve(adapter, mounted.device, &mounted.negotiated, 2).unwrap();
    check(&point.join(ROOT_NAME));
    drop(guard);
    session.join().unwrap();
}

#[test]
fn the_kernel_shows_every_kind_of_entry() {
    let tar: Vec<u8> = (0..FILE_LEN + 4096).map(|at| (at / 3 % 253) as u8).collect();
    let xattr = |name: &[u8], value: &[u8]| Xattr { name: name.into(), value: value.into() };
    let directory = Entry { mode: 0o1777, ..entry("d", EntryKind::Directory) };
    let entries = vec![
        directory,
        Entry {
            mode: 0o4755,
            xattrs: vec![xattr(b"user.a", b"1"), xattr(b"user.b", b"\0\xff")],
            ..file("d/file", 512)
        },
        entry("d/hard", EntryKind::HardLink { target: EntryPath::parse(b"d/file").unwrap() }),
        entry("link", EntryKind::Symlink { target: b"d/file"[..].into() }),
        entry("null", EntryKind::CharDevice { major: 1, minor: 3 }),
        entry("disk", EntryKind::BlockDevice { major: 259, minor: 70_000 }),
        entry("pipe", EntryKind::Fifo),
        Entry { path: EntryPath::parse(b"n\xff\xfe").unwrap(), ..file("x", 0) },
    ];
    // A hard link's entry speaks for the inode it shares.
    let entries = entries.into_iter().map(|e| match e.kind {
        EntryKind::HardLink { .. } => Entry { mode: 0o4755, ..e },
        _ => e,
    });
    with_mount(entries.collect(), &tar, |root| {
        let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
        let meta = stat("d/file");
        assert_eq!((meta.mode(), meta.uid(), meta.gid()), (0o104_755, 12, 34));
        assert_eq!((meta.size(), meta.nlink()), (FILE_LEN as u64, 2));
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_234_567_890, 987_654_321));
        assert_eq!(meta.ino(), stat("d/hard").ino());
        assert_eq!(stat("d").mode(), 0o041_777);
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("d/file"));
        assert!(stat("null").file_type().is_char_device() && stat("pipe").file_type().is_fifo());
        assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
        assert_eq!(stat("disk").rdev(), rustix::fs::makedev(259, 70_000));

        assert_eq!(fs::read(root.join("link")).unwrap(), tar[512..512 + FILE_LEN]);
        let odd = std::ffi::OsStr::from_bytes(b"n\xff\xfe");
        assert_eq!(fs::read(root.join(odd)).unwrap(), tar[..FILE_LEN]);

        let mut value = [0; 8];
        let path = root.join("d/file");
        let len = rustix::fs::getxattr(&path, c"user.b", &mut value).unwrap();
        assert_eq!(&value[..len], b"\0\xff");
        let mut names = vec![0; 64];
        let len = rustix::fs::listxattr(&path, &mut names).unwrap();
        assert_eq!(&names[..len], b"user.a\0user.b\0");
        let missing = CString::new("user.none").unwrap();
        assert_eq!(rustix::fs::getxattr(&path, &missing, &mut value).unwrap_err(), rustix::io::Errno::NODATA);

        assert!(fs::symlink_metadata(root.join("missing")).is_err());
        let written = fs::write(root.join("new"), b"x").unwrap_err();
        assert_eq!(written.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
        assert!(rustix::fs::statvfs(root).unwrap().f_blocks > 0);
        let mut top: Vec<_> = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
        top.sort();
        let names = [&b"d"[..], b"disk", b"link", b"null", b"n\xff\xfe", b"pipe"];
        assert_eq!(top, names.map(std::ffi::OsStr::from_bytes));
        assert_eq!(fs::read_dir(root.parent().unwrap()).unwrap().count(), 1);
    });
}

#[test]
fn a_large_directory_lists_every_name_once() {
    let count = 20_000;
    let entries = (0..count).map(|at| file(&format!("d/entry-{at:06}"), 0)).collect();
    with_mount(entries, &vec![0; FILE_LEN], |root| {
        let mut names: Vec<String> = fs::read_dir(root.join("d"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, (0..count).map(|at| format!("entry-{at:06}")).collect::<Vec<_>>());
    });
}

#[test]
fn a_mount_that_cannot_be_served_fails_and_does_not_hang() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: mounting needs root and /dev/fuse");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let point = directory.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let mounted = fuse::mount::mount(&point, &MountOptions::default()).unwrap();
    let _mount = Mount(point.clone());
    let _session = fuse::serve(fuse::Orphan, mounted.device, &mounted.negotiated, 1).unwrap();
    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    assert_eq!(fs::metadata(point.join(ROOT_NAME)).unwrap_err().raw_os_error(), eio);
    // Anything but ENOSYS, which the kernel would never ask again after.
    let mut value = [0; 16];
    for _ in 0..2 {
        let failed = rustix::fs::lgetxattr(&point, "user.x", &mut value[..]).unwrap_err();
        assert_eq!(Some(failed.raw_os_error()), eio);
    }
}
