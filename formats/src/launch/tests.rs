//! What is written is read back; damage is found.

mod merging;
mod odd;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tree::TreeBuilder;
use crate::{
    BlobOffset, Content, DiffId, Digest, DigestScope, Entry, EntryKind, EntryPath, Span, SpanDigest,
    SparseExtent, TarOffset, Timestamp,
};

const TAR_LEN: u32 = 1 << 20;

pub(super) fn entry(path: &str, kind: EntryKind) -> Entry {
    let path = EntryPath::parse(path.as_bytes()).unwrap();
    Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Vec::new() }
}

pub(super) fn dir(path: &str) -> Entry {
    Entry { mode: 0o755, ..entry(path, EntryKind::Directory) }
}

pub(super) fn file(path: &str, offset: u64) -> Entry {
    entry(path, EntryKind::Regular { size: 1, content: Content::Contiguous(TarOffset(offset)) })
}

pub(super) fn link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink { target: EntryPath::parse(target.as_bytes()).unwrap() })
}

pub(super) fn symlink(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink { target: target.as_bytes().into() })
}

fn layer(number: usize) -> LaunchLayer {
    let digest = |what: &str| Digest::of(format!("{what}{number}").as_bytes());
    let span = |tar_offset, blob_offset| Span {
        blob_offset: BlobOffset(blob_offset),
        compressed_len: 100,
        tar_offset: TarOffset(tar_offset),
        tar_len: TAR_LEN / 2,
        digest: SpanDigest([7; 32]),
    };
    LaunchLayer {
        diff_id: DiffId(digest("diff")),
        original: Blob { digest: digest("original"), len: 300, compression: Compression::Gzip },
        converted: Blob { digest: digest("converted"), len: 200, compression: Compression::Zstd },
        tar_len: TAR_LEN.into(),
        scope: DigestScope::Compressed,
        spans: vec![span(0, 0), span(u64::from(TAR_LEN / 2), 100)],
    }
}

pub(super) fn index_of(layers: Vec<Vec<Entry>>) -> LaunchIndex<Vec<u8>> {
    let mut builder = TreeBuilder::new();
    let records: Vec<LaunchLayer> = (0..layers.len()).map(layer).collect();
    for entries in layers {
        builder.push_layer(entries).unwrap();
    }
    let bytes = write(&records, builder.finish()).unwrap();
    let index = LaunchIndex::open(unpack(&pack(&bytes).unwrap()).unwrap()).unwrap();
    assert_eq!(index.layers(), records);
    index.verify_checksum().unwrap();
    check(&index).unwrap();
    index
}

/// Every visible path with what stands there: `dir`, a file's tar offset, or a link's target.
fn listing(index: &LaunchIndex<Vec<u8>>, prefix: u16) -> BTreeMap<String, String> {
    let view = index.view(prefix).unwrap();
    let mut listed = BTreeMap::new();
    let root = view.root().unwrap();
    let mut pending = vec![(String::new(), root)];
    while let Some((path, dir)) = pending.pop() {
        for child in view.children(dir, 0).unwrap() {
            let child = child.unwrap();
            let path = format!("{path}/{}", String::from_utf8_lossy(child.name));
            assert_eq!(view.lookup(dir, child.name).unwrap(), Some(child.inode), "{path}");
            let shown = match index.attributes(child.inode).unwrap().kind {
                InodeType::Directory => {
                    assert_eq!(view.parent(child.inode).unwrap(), dir, "parent of {path}");
                    pending.push((path.clone(), child.inode));
                    "dir".to_owned()
                }
                InodeType::Regular => index.content(child.inode).unwrap().extents[0].tar_offset.to_string(),
                InodeType::Symlink => {
                    String::from_utf8_lossy(index.symlink_target(child.inode).unwrap()).into()
                }
                other => format!("{other:?}"),
            };
            listed.insert(path, shown);
        }
    }
    listed
}

fn listed(index: &LaunchIndex<Vec<u8>>, prefix: u16) -> Vec<(String, String)> {
    listing(index, prefix).into_iter().collect()
}

fn expect(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(path, what)| ((*path).to_owned(), (*what).to_owned())).collect()
}

#[test]
fn attributes_content_and_devices_survive_the_round_trip() {
    let extent =
        |file_offset, tar_offset| SparseExtent { file_offset, tar_offset: TarOffset(tar_offset), len: 512 };
    let sparse = Content::Sparse(vec![extent(0, 1024), extent(4096, 1536)]);
    let old = Timestamp { seconds: -5, nanoseconds: 9 };
    let new = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
    let index = index_of(vec![vec![
        Entry {
            mode: 0o4755,
            uid: 1 << 22,
            gid: 5,
            mtime: new,
            ..entry("s", EntryKind::Regular { size: 8192, content: sparse.clone() })
        },
        Entry { mtime: old, ..entry("n", EntryKind::BlockDevice { major: 8, minor: 300 }) },
    ]]);
    let view = index.view(1).unwrap();
    let of = |name: &[u8]| view.lookup(view.root().unwrap(), name).unwrap().unwrap();
    let want = Attributes {
        kind: InodeType::Regular,
        mode: 0o4755,
        uid: 1 << 22,
        gid: 5,
        size: 8192,
        mtime: new,
        nlink: 1,
    };
    assert_eq!(index.attributes(of(b"s")).unwrap(), want);
    assert_eq!(Content::Sparse(index.content(of(b"s")).unwrap().extents), sparse);
    let device = index.attributes(of(b"n")).unwrap();
    assert_eq!(device.kind, InodeType::BlockDevice { major: 8, minor: 300 });
    // Unpackers write 0 for a time before the epoch.
    assert_eq!(device.mtime, Timestamp::default());
}

#[test]
fn chains_are_known_by_their_prefix() {
    let index = index_of(vec![vec![dir("a")], vec![dir("b")], vec![]]);
    let chains: Vec<crate::ChainId> = crate::ChainId::prefixes(&index.diff_ids()).collect();
    assert_eq!(
        chains.iter().map(|&chain| index.prefix_of(chain)).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
    assert_eq!(index.prefix_of(crate::ChainId(Digest::of(b"other"))), None);
}

#[test]
fn children_go_on_from_any_position() {
    let index =
        index_of(vec![(0..100).map(|n| file(&format!("f{n:03}"), n)).collect(), vec![file(".wh.f050", 0)]]);
    let view = index.view(2).unwrap();
    let root = view.root().unwrap();
    let all: Vec<Child<'_>> = view.children(root, 0).unwrap().map(Result::unwrap).collect();
    assert_eq!(all.len(), 99);
    for (at, child) in all.iter().enumerate() {
        let rest: Vec<Child<'_>> = view.children(root, child.next).unwrap().map(Result::unwrap).collect();
        assert_eq!(rest, all[at + 1..]);
    }
    assert_eq!(view.children(root, u64::MAX).unwrap().count(), 0);
}

#[test]
fn damage_is_found() {
    let good = index_of(vec![vec![file("a", 1), dir("d"), symlink("d/s", "x")]]).into_bytes();
    assert_eq!(LaunchIndex::open(b"short").err(), Some(LaunchError::Magic));
    for at in [0, 8, 16, 64, 80] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(LaunchIndex::open(bad).is_err(), "flipped byte {at}");
    }
    for len in (0..good.len()).step_by(7) {
        assert!(LaunchIndex::open(&good[..len]).is_err(), "cut to {len}");
    }
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert_eq!(LaunchIndex::open(bad).unwrap().verify_checksum(), Err(LaunchError::Checksum));
    assert!(matches!(unpack(&good), Err(LaunchError::Packing(_))));
}

#[test]
fn a_small_blob_does_not_become_a_large_index() {
    let zeros = pack(&vec![0; 16 << 20]).unwrap();
    assert!(matches!(unpack(&zeros), Err(LaunchError::Ratio { .. })), "{} bytes", zeros.len());
    // As regular as a tree can be: empty files in one directory.
    let files = (0..25_000).map(|n| Entry { mtime: Timestamp::default(), ..file(&format!("f{n:05}"), 0) });
    let index = index_of(vec![files.collect()]).into_bytes();
    assert_eq!(unpack(&pack(&index).unwrap()).unwrap(), index);
    let blob = pack(&index).unwrap().len();
    assert!(index.len() > 1 << 20 && index.len() / blob < 100, "{} bytes in {blob}", index.len());
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = index_of(vec![vec![dir("d"), file("d/a", 1), symlink("s", "t")], vec![file("d/.wh.a", 0)]]).into_bytes();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(index) = LaunchIndex::open(bytes) {
            let sound = check(&index).is_ok();
            for inode in (0..8).map(InodeId) {
                let _ = (index.attributes(inode), index.content(inode), index.xattrs(inode), index.symlink_target(inode));
                if let Some(view) = index.view(1) {
                    let _ = view.parent(inode);
                    let _ = view.children(inode, 0).map(|children| children.count());
                }
            }
            if sound {
                listing(&index, 1);
            }
        }
    }
}
