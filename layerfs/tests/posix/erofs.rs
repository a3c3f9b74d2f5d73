//! A complete chain as EROFS beside the lazy one: the same in all but what is said here.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

use crate::fixture::{
    Image, Node, block_device, char_device, dir, fifo, file, hard_link, noise, sparse, symlink,
};
use crate::mounted::{Mounted, can_mount};

/// All that a reader sees of an entry; of content too large to be read, beginning and end.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    attributes: (u32, u32, u32, i64, i64, u64, u64),
    size: Option<u64>,
    target: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Option<blake3::Hash>,
    /// The first name of the same file.
    first_name: PathBuf,
    number: u64,
}

/// Whether this kernel mounts EROFS from files; other tests are about lazy mounts alone where it does not.
fn has_erofs() -> bool {
    !Mounted::new(Image::new(vec![vec![file("f", "x")]])).complete_roots().is_empty()
}

fn walk(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut found, mut pending, mut names) = (BTreeMap::new(), vec![PathBuf::new()], HashMap::new());
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let stat = fs::symlink_metadata(&full).unwrap();
        if stat.is_dir() {
            let mut below: Vec<_> =
                fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())).collect();
            below.sort();
            pending.extend(below);
        }
        let first_name = names.entry(stat.ino()).or_insert_with(|| path.clone()).clone();
        found.insert(path, see(&full, &stat, first_name));
    }
    found
}

fn see(full: &Path, stat: &fs::Metadata, first_name: PathBuf) -> Seen {
    let content = stat.is_file().then(|| {
        let len = stat.size().min(3 << 20);
        let mut bytes = vec![0; usize::try_from(2 * len).unwrap()];
        let (start, end) = bytes.split_at_mut(usize::try_from(len).unwrap());
        let open = File::open(full).unwrap();
        open.read_exact_at(start, 0).unwrap();
        open.read_exact_at(end, stat.size() - len).unwrap();
        blake3::hash(&bytes)
    });
    let mut room = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(full, &mut room).unwrap_or(0);
    let names = room[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let xattrs = names.map(|name| {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(full, std::ffi::OsStr::from_bytes(name), &mut value).unwrap();
        (name.to_vec(), value[..len].to_vec())
    });
    let is_device = stat.file_type().is_char_device() || stat.file_type().is_block_device();
    Seen {
        attributes: (
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.nlink(),
            if is_device { stat.rdev() } else { 0 },
        ),
        size: (!stat.is_dir()).then(|| stat.size()),
        target: stat.is_symlink().then(|| fs::read_link(full).unwrap()),
        xattrs: xattrs.collect(),
        content,
        first_name,
        number: stat.ino(),
    }
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Layers of everything, under names that sort before and behind `.` and that are not text.
fn random_layers(mut seed: u64) -> Vec<Vec<Node>> {
    let seed = &mut seed;
    let sizes = [0, 1, 511, 512, 513, 4095, 4096, 70_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2_500_001];
    (0..3)
        .map(|layer| {
            let mut nodes = vec![dir("#"), dir("#/\u{7f}"), dir("+"), dir("z")];
            for at in 0..60 + next(seed) % 60 {
                let above = ["", "#/", "#/\u{7f}/", "+/", "z/"][usize::try_from(next(seed) % 5).unwrap()];
                let stem =
                    [&b"-"[..], b"!", b"a", b"\xff\xfe", b"..."][usize::try_from(next(seed) % 5).unwrap()];
                let path = [
                    above.as_bytes(),
                    stem,
                    format!("{layer}-{at}").as_bytes(),
                    &vec![b'n'; usize::try_from(next(seed) % 240).unwrap()],
                ]
                .concat();
                let size = sizes[usize::try_from(next(seed)).unwrap() % sizes.len()];
                let node = match next(seed) % 12 {
                    0 => dir(&path),
                    1 => symlink(
                        &format!("{above}link{layer}-{at}"),
                        vec![b't'; 1 + usize::try_from(next(seed) % 4095).unwrap()],
                    ),
                    2 => char_device(&format!("{above}char{layer}-{at}"), 511, 1_048_575),
                    3 => block_device(&format!("{above}block{layer}-{at}"), 8, 300),
                    4 => fifo(&format!("{above}fifo{layer}-{at}")),
                    5 => sparse(
                        &format!("{above}sparse{layer}-{at}"),
                        (5 << 30) + 1000,
                        &[(1 << 20, &noise(at, 1 << 16)), (5 << 30, &noise(at, 1000))],
                    )
                    .mode(0o600),
                    _ => file(&path, noise(next(seed), size)),
                };
                let node = if next(seed).is_multiple_of(4) {
                    let value = noise(at, usize::try_from(next(seed) % 3000).unwrap());
                    node.xattr("security.of-it", &value).xattr("security.other", b"")
                } else {
                    node
                };
                let owner = u32::try_from(next(seed)).unwrap();
                nodes.push(
                    node.owner(owner, owner / 3)
                        .mtime(i64::try_from(next(seed)).unwrap(), owner % 1_000_000_000)
                        .mode(u32::try_from(next(seed) % 0o10000).unwrap() | 0o400),
                );
            }
            let name = format!("kept-{layer}");
            nodes.extend([
                file(&name, noise(layer, 100_000)),
                hard_link(&format!("z/{name}"), &name),
                hard_link(&format!("#/{name}"), &name),
            ]);
            nodes
        })
        .collect()
}

#[test]
fn a_complete_chain_shows_what_the_lazy_one_shows() {
    if !can_mount() {
        return;
    }
    for seed in 0..3 {
        let mounted = Mounted::new(Image::new(random_layers(seed)));
        assert_eq!(mounted.complete_roots().is_empty(), !has_erofs(), "the image cannot be mounted");
        for (lazy, complete) in mounted.lazy_roots().iter().zip(mounted.complete_roots()) {
            let (lazy, complete) = (walk(lazy), walk(&complete));
            assert!(lazy.len() > 100);
            assert_eq!(complete.len(), lazy.len());
            // The root itself is, below overlayfs, that of the container's own layer.
            for (path, seen) in complete.into_iter().skip(1) {
                assert_eq!(Some(&seen), lazy.get(&path), "{seed}: {}", path.display());
            }
        }
    }
}

/// S24: Where the kernel reads a complete chain by itself, blocks have 512 bytes, holes are reported, `statfs` tells of
/// the image, and `O_DIRECT` is refused.
#[test]
fn what_the_kernel_reads_by_itself_differs_in_this() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(Image::new(vec![vec![
        file("f", noise(1, 5000)),
        sparse("holes", 1 << 20, &[(1 << 18, &noise(2, 1 << 18))]),
    ]]));
    for root in mounted.complete_roots() {
        let stat = fs::metadata(root.join("f")).unwrap();
        assert_eq!((stat.blocks(), stat.blksize()), (10, 512));
        let holes = File::open(root.join("holes")).unwrap();
        let seek = |at| rustix::fs::seek(&holes, at).unwrap();
        assert_eq!((seek(SeekFrom::Data(0)), seek(SeekFrom::Hole(1 << 18))), (1 << 18, 1 << 19));
    }
    if let Some(root) = mounted.complete_roots().first() {
        let stat = rustix::fs::statvfs(root).unwrap();
        assert!(stat.f_blocks > 0 && stat.f_bavail == 0);
    }
}

#[test]
fn a_damaged_image_is_written_anew_and_never_mounted() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new(Image::new(random_layers(77).into_iter().take(1).collect()));
    let Some(root) = mounted.complete_roots().first().cloned() else { return };
    let image = mounted.path("complete/image");
    let (sound, seen) = (fs::read(&image).unwrap(), walk(&root));
    for place in [1030, 1200, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[place] ^= 0x10;
        fs::remove_file(&image).unwrap();
        fs::write(&image, &damaged).unwrap();
        mounted.again();
        // The same tree has the same image.
        assert!(fs::read(&image).unwrap() == sound, "byte {place}");
        assert_eq!(walk(&root), seen);
    }
    for short in [&sound[..sound.len() - 1], &[]] {
        fs::write(&image, short).unwrap();
        mounted.again();
        assert!(fs::read(&image).unwrap() == sound);
    }
}
