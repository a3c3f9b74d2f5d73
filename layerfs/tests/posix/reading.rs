//! Every way to a file's bytes gives the same bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{IoSliceMut, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, FlockOperation, OFlags};
use rustix::pipe::SpliceFlags;

use crate::fixture::{Image, file, noise, sparse};
use crate::mounted::{Mounted, can_mount};

/// Not a multiple of anything, and several spans, pages and requests long.
const LEN: usize = 3_000_017;

fn content() -> Vec<u8> {
    noise(7, LEN)
}

fn mounted() -> Mounted {
    Mounted::new(Image::new(vec![vec![file("f", content()), file("small", "0123456789"), file("empty", "")]]))
}

#[test]
fn reads_at_any_place_and_of_any_length() {
    if !can_mount() {
        return;
    }
    let (mounted, want) = (mounted(), content());
    for root in mounted.roots() {
        let mut open = File::open(root.join("f")).unwrap();
        for (offset, len) in
            [(0, 1), (1, 4095), (4095, 2), (LEN - 1, 1), (131_071, 131_074), (999_999, 1 << 20), (0, LEN)]
        {
            let mut bytes = vec![0; len];
            open.read_exact_at(&mut bytes, offset as u64).unwrap();
            assert!(bytes == want[offset..offset + len], "{len} bytes at {offset}");
        }
        let mut beyond = [0; 10];
        assert_eq!(open.read_at(&mut beyond, LEN as u64 - 3).unwrap(), 3);
        assert_eq!(open.read_at(&mut beyond, LEN as u64).unwrap(), 0);
        assert_eq!(open.read_at(&mut beyond, 1 << 40).unwrap(), 0);
        let (mut one, mut two) = (vec![0; 100_000], vec![0; 7]);
        open.seek(SeekFrom::Start(12_345)).unwrap();
        let read = open.read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)]).unwrap();
        assert!(read == 100_007 && one == want[12_345..112_345] && two == want[112_345..112_352]);
        assert_eq!(open.seek(SeekFrom::End(0)).unwrap(), LEN as u64);
        assert_eq!(fs::read(root.join("empty")).unwrap(), b"");
    }
}

#[test]
fn direct_reads_bypass_the_cache_and_not_the_checks() {
    if !can_mount() {
        return;
    }
    let (mounted, want) = (mounted(), content());
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap();
    let open = |root: &Path| OpenOptions::new().read(true).custom_flags(direct).open(root.join("f"));
    // Linux has no direct reads of an EROFS over files.
    let refused = Some(rustix::io::Errno::INVAL.raw_os_error());
    for root in mounted.complete_roots() {
        assert_eq!(open(&root).unwrap_err().raw_os_error(), refused);
    }
    for root in mounted.lazy_roots() {
        assert_eq!(fs::read(root.join("f")).unwrap(), want);
    }
    assert!(!mounted.fs().is_read_directly());
    for root in mounted.lazy_roots() {
        let open = open(&root).unwrap();
        // Aligned, as a disk wants it.
        let mut room = vec![0; (1 << 20) + 4096];
        let skip = room.as_ptr().align_offset(4096);
        for offset in [0, 4096, 1 << 20, 2 << 20] {
            let bytes = &mut room[skip..skip + (1 << 20)];
            let len = open.read_at(bytes, offset as u64).unwrap();
            assert_eq!(len, (LEN - offset).min(1 << 20));
            assert!(bytes[..len] == want[offset..offset + len], "at {offset}");
        }
    }
    assert!(mounted.fs().is_read_directly(), "that is known, so that it stays possible");
}

#[test]
#[allow(unsafe_code)]
fn maps_are_shared_or_private() {
    if !can_mount() {
        return;
    }
    let (mounted, want) = (mounted(), content());
    for root in mounted.roots() {
        let open = File::open(root.join("f")).unwrap();
        // SAFETY: nothing changes or truncates the file: the file system is read-only.
        let shared = unsafe { memmap2::Mmap::map(&open).unwrap() };
        assert!(shared[..] == want[..]);
        // SAFETY: as above; and a private map is this process's own.
        let mut private = unsafe { memmap2::MmapOptions::new().map_copy(&open).unwrap() };
        private[77] ^= 0xff;
        assert!(shared[77] == want[77] && private[77] != want[77]);
        assert!(private[78..] == want[78..]);
        drop(open);
        assert!(shared[LEN - 1] == want[LEN - 1]);
    }
}

/// S14: Every way to read a file gives the same bytes: `read` at any offset and length, `O_DIRECT`, shared and
/// private `mmap`, `sendfile`, `splice`.
#[test]
fn the_kernel_copies_what_programs_would_read() {
    if !can_mount() {
        return;
    }
    let (mounted, want) = (mounted(), content());
    for (at, root) in mounted.roots().into_iter().enumerate() {
        let from = File::open(root.join("f")).unwrap();
        let sent = mounted.path(&format!("sent-{at}"));
        let to = File::create(&sent).unwrap();
        let mut offset = 0;
        while rustix::fs::sendfile(&to, &from, Some(&mut offset), LEN).unwrap() > 0 {}
        assert!(fs::read(&sent).unwrap() == want, "sendfile");
        assert!(spliced(&from) == want, "splice");
    }
    // The image and a container's own layer are two file systems: the kernel says so, and programs copy by themselves.
    let (from, copy) = (File::open(mounted.merged().join("f")).unwrap(), mounted.merged().join("copy"));
    let to = File::create(&copy).unwrap();
    let refused = rustix::fs::copy_file_range(&from, None, &to, None, LEN).unwrap_err();
    assert_eq!(refused, rustix::io::Errno::XDEV);
    fs::copy(mounted.merged().join("f"), &copy).unwrap();
    assert!(fs::read(&copy).unwrap() == want, "copied");
}

fn spliced(from: &File) -> Vec<u8> {
    let (reader, writer): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    let from = from.try_clone().unwrap();
    let pump = std::thread::spawn(move || {
        let mut offset = 0;
        while rustix::pipe::splice(&from, Some(&mut offset), &writer, None, 1 << 20, SpliceFlags::MOVE)
            .unwrap()
            > 0
        {}
    });
    let mut bytes = Vec::new();
    File::from(reader).read_to_end(&mut bytes).unwrap();
    pump.join().unwrap();
    bytes
}

/// S15: Holes of a sparse file read as zeros and are not reported by `SEEK_HOLE`.
#[test]
fn holes_read_as_zeros_and_are_not_seen() {
    if !can_mount() {
        return;
    }
    let (size, far) = (5 << 40, 4 << 40);
    let mounted = Mounted::lazily(Image::new(vec![vec![
        sparse("huge", size, &[(0, b"start"), (far, b"far"), (size - 3, b"end")]),
        sparse("hole", 1 << 20, &[]),
        sparse("mixed", 300_000, &[(100_000, &noise(3, 150_000))]),
    ]]));
    for root in mounted.roots() {
        let huge = File::open(root.join("huge")).unwrap();
        assert_eq!(huge.metadata().unwrap().len(), size);
        let at = |offset: u64, len: usize| {
            let mut bytes = vec![1; len];
            let read = huge.read_at(&mut bytes, offset).unwrap();
            bytes.truncate(read);
            bytes
        };
        assert_eq!(at(0, 7), b"start\0\0");
        assert_eq!(at(far - 2, 7), b"\0\0far\0\0");
        assert_eq!(at(size - 5, 9), b"\0\0end");
        assert!(at(far / 2 + 1, 1 << 20).iter().all(|byte| *byte == 0));
        assert!(fs::read(root.join("hole")).unwrap() == vec![0; 1 << 20]);
        let mixed = [vec![0; 100_000], noise(3, 150_000), vec![0; 50_000]].concat();
        assert!(fs::read(root.join("mixed")).unwrap() == mixed);
        // An unpacker writes holes out, so there are none to find.
        let mixed = File::open(root.join("mixed")).unwrap();
        let seek = |at| rustix::fs::seek(&mixed, at);
        assert_eq!(seek(rustix::fs::SeekFrom::Data(5)).unwrap(), 5);
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(5)).unwrap(), 300_000);
        assert_eq!(seek(rustix::fs::SeekFrom::Data(300_000)).unwrap_err(), rustix::io::Errno::NXIO);
    }
}

/// S23: Locks, `fsync`, `fadvise` and `/proc/self/fd` work on its files as on any.
#[test]
fn what_programs_do_to_open_files_works() {
    if !can_mount() {
        return;
    }
    let mounted = mounted();
    let complete = mounted.complete_roots().first().cloned().unwrap_or_default();
    for root in mounted.roots() {
        let path = root.join("small");
        let (one, two) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        // A complete chain by itself has nothing that could be synced, and says so; a container does not see that.
        let is_complete = root == complete;
        let synced = [one.sync_all(), one.sync_data(), File::open(&root).unwrap().sync_all()];
        assert_eq!(synced.map(|synced| synced.is_err()), [is_complete; 3]);
        rustix::fs::fadvise(&one, 0, None, Advice::WillNeed).unwrap();
        rustix::fs::flock(&one, FlockOperation::LockExclusive).unwrap();
        let taken = rustix::fs::flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap_err();
        assert_eq!(taken, rustix::io::Errno::WOULDBLOCK);
        drop(one);
        rustix::fs::flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
        let watched = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&two).to_string());
        assert_eq!(fs::read_link(watched).unwrap(), path);
        let flags = rustix::fs::ioctl_getflags(&two).unwrap_err();
        assert_eq!(flags, rustix::io::Errno::NOTTY, "{}", root.display());
    }
}
