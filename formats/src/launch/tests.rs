//! The index against a naive model: layers applied one by one to a map of paths.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tree::TreeBuilder;
use crate::{
    BlobOffset, Content, DiffId, Digest, DigestScope, Entry, EntryKind, EntryPath, Span, SpanDigest,
    SparseExtent, TarOffset, Timestamp, Xattr,
};

const TAR_LEN: u32 = 1 << 20;

fn entry(path: &str, kind: EntryKind) -> Entry {
    let path = EntryPath::parse(path.as_bytes()).unwrap();
    Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Vec::new() }
}

fn dir(path: &str) -> Entry {
    Entry { mode: 0o755, ..entry(path, EntryKind::Directory) }
}

fn file(path: &str, offset: u64) -> Entry {
    entry(path, EntryKind::Regular { size: 1, content: Content::Contiguous(TarOffset(offset)) })
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink { target: EntryPath::parse(target.as_bytes()).unwrap() })
}

fn symlink(path: &str, target: &str) -> Entry {
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

fn index_of(layers: Vec<Vec<Entry>>) -> LaunchIndex<Vec<u8>> {
    let mut builder = TreeBuilder::new();
    let records: Vec<LaunchLayer> = (0..layers.len()).map(layer).collect();
    for entries in layers {
        builder.push_layer(entries).unwrap();
    }
    let bytes = write(&records, &builder.finish()).unwrap();
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
fn each_prefix_shows_its_own_tree() {
    let index = index_of(vec![
        vec![
            dir("./"),
            dir("etc"),
            file("etc/a", 1),
            file("etc/b", 2),
            dir("opt"),
            dir("opt/x"),
            file("opt/x/y", 3),
        ],
        vec![file("etc/.wh.a", 0), file("etc/b", 4), file("opt/.wh..wh..opq", 0), file("opt/z", 5)],
        vec![file("opt", 6)],
        vec![dir("opt"), file("opt/new", 7)],
    ]);
    let below = [
        ("/etc", "dir"),
        ("/etc/a", "1"),
        ("/etc/b", "2"),
        ("/opt", "dir"),
        ("/opt/x", "dir"),
        ("/opt/x/y", "3"),
    ];
    assert_eq!(listed(&index, 1), expect(&below));
    assert_eq!(
        listed(&index, 2),
        expect(&[("/etc", "dir"), ("/etc/b", "4"), ("/opt", "dir"), ("/opt/z", "5")])
    );
    assert_eq!(listed(&index, 3), expect(&[("/etc", "dir"), ("/etc/b", "4"), ("/opt", "6")]));
    assert_eq!(
        listed(&index, 4),
        expect(&[("/etc", "dir"), ("/etc/b", "4"), ("/opt", "dir"), ("/opt/new", "7")])
    );
    assert!(index.view(0).is_none() && index.view(5).is_none());
}

#[test]
fn a_directory_keeps_its_children_when_its_attributes_change() {
    let changed = Entry { mode: 0o700, uid: 7, ..dir("d") };
    let index = index_of(vec![
        vec![dir("d"), file("d/f", 1)],
        vec![changed, dir("d")],
        vec![Entry { mode: 0o700, ..dir("d") }],
    ]);
    let modes = [1, 2, 3].map(|prefix| {
        let view = index.view(prefix).unwrap();
        let dir = view.lookup(view.root().unwrap(), b"d").unwrap().unwrap();
        assert!(view.lookup(dir, b"f").unwrap().is_some());
        index.attributes(dir).unwrap().mode
    });
    assert_eq!(modes, [0o755, 0o755, 0o700]);
}

#[test]
fn the_last_entry_of_a_path_wins_within_a_layer() {
    let index =
        index_of(vec![vec![file("a", 1), dir("b"), file("b/c", 2), file("b", 3), file("a", 4), dir("e/f")]]);
    assert_eq!(listed(&index, 1), expect(&[("/a", "4"), ("/b", "3"), ("/e", "dir"), ("/e/f", "dir")]));
}

#[test]
fn hard_links_share_an_inode_and_count_its_names() {
    let index =
        index_of(vec![vec![file("a", 1), link("d/b", "a"), link("c", "d/b")], vec![file(".wh.c", 0)]]);
    let view = index.view(1).unwrap();
    let (a, c) =
        (view.lookup(view.root().unwrap(), b"a").unwrap(), view.lookup(view.root().unwrap(), b"c").unwrap());
    assert_eq!(a, c);
    assert_eq!(index.attributes(a.unwrap()).unwrap().nlink, 3);
    assert_eq!(listing(&index, 2).len(), 3);
}

#[test]
fn a_hard_link_needs_an_earlier_target_in_its_layer() {
    let mut builder = TreeBuilder::new();
    builder.push_layer(vec![file("a", 1)]).unwrap();
    let refused = builder.push_layer(vec![link("b", "a")]).unwrap_err();
    assert!(matches!(refused, crate::tree::TreeError::HardLinkTarget { .. }), "{refused}");
}

#[test]
fn entries_below_a_symbolic_link_of_the_layer_go_where_it_points() {
    let index = index_of(vec![vec![
        dir("usr/lib"),
        symlink("lib", "/usr/lib"),
        file("lib/x", 1),
        symlink("up", "../../usr"),
        file("up/y", 2),
    ]]);
    let paths: Vec<String> = listing(&index, 1).into_keys().collect();
    assert_eq!(paths, ["/lib", "/up", "/usr", "/usr/lib", "/usr/lib/x", "/usr/y"]);
    let looped = vec![symlink("a", "b"), symlink("b", "a"), file("a/x", 1)];
    assert!(matches!(TreeBuilder::new().push_layer(looped), Err(crate::tree::TreeError::SymlinkLoop(_))));
    let below_file = vec![file("a", 1), file("a/x", 1)];
    assert!(matches!(
        TreeBuilder::new().push_layer(below_file),
        Err(crate::tree::TreeError::NotADirectory { .. })
    ));
}

#[test]
fn whiteouts_of_overlayfs_and_its_xattrs_never_reach_the_tree() {
    let device = entry("d", EntryKind::CharDevice { major: 0, minor: 0 });
    let marked = Entry {
        xattrs: vec![
            Xattr { name: b"trusted.overlay.opaque"[..].into(), value: b"y"[..].into() },
            Xattr { name: b"user.kept"[..].into(), value: b""[..].into() },
        ],
        ..file("f", 1)
    };
    let index = index_of(vec![
        vec![dir("d"), file("d/x", 1)],
        vec![device, marked, file(".wh..wh.plnk", 0), file(".wh..", 0)],
    ]);
    assert_eq!(listed(&index, 2), expect(&[("/f", "1")]));
    let view = index.view(2).unwrap();
    let xattrs = index.xattrs(view.lookup(view.root().unwrap(), b"f").unwrap().unwrap()).unwrap();
    assert_eq!(xattrs.iter().map(|x| &x.name[..]).collect::<Vec<_>>(), [b"user.kept"]);
    assert!(index.has_xattrs());
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

#[derive(Clone, Debug)]
enum Step {
    File(String),
    Dir(String),
    Whiteout(String),
    Opaque(String),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let path = prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    let step = (0..6u8, path).prop_map(|(kind, path)| match kind {
        0..=2 => Step::File(path),
        3 => Step::Dir(path),
        4 => Step::Whiteout(path),
        _ => Step::Opaque(path),
    });
    prop::collection::vec(prop::collection::vec(step, 0..8), 1..6)
}

/// What unpacking would leave: whiteouts first, they speak of the layers below; then the entries.
fn apply(model: &mut BTreeMap<String, String>, steps: &[Step], layer: usize) -> Vec<Entry> {
    let remove_below = |model: &mut BTreeMap<String, String>, path: &str| {
        model.retain(|have, _| !have.starts_with(&format!("/{path}/")));
    };
    let mut entries = Vec::new();
    for step in steps {
        match step {
            Step::Whiteout(path) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                entries.push(file(&format!("{parent}/.wh.{name}"), 0));
                remove_below(model, path);
                model.remove(&format!("/{path}"));
            }
            Step::Opaque(path) => {
                entries.push(file(&format!("{path}/.wh..wh..opq"), 0));
                remove_below(model, path);
            }
            _ => {}
        }
    }
    let mut own: BTreeMap<String, bool> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let (path, is_dir) = match step {
            Step::File(path) => (path, false),
            Step::Dir(path) => (path, true),
            _ => continue,
        };
        let ancestors = path.match_indices('/').map(|(at, _)| &path[..at]);
        // An unpacker refuses an entry below a file of the same layer; the builder's own test covers that.
        if ancestors.clone().any(|ancestor| own.get(ancestor) == Some(&false)) {
            continue;
        }
        // A file that a directory of the same layer replaces never hid what lies below; not modelled here.
        if is_dir && own.get(path) == Some(&false) {
            continue;
        }
        for ancestor in ancestors {
            model.insert(format!("/{ancestor}"), "dir".to_owned());
        }
        if !is_dir {
            remove_below(model, path);
            own.retain(|have, _| !have.starts_with(&format!("{path}/")));
        }
        let offset = (layer * 100 + at) as u64;
        own.insert(path.clone(), is_dir);
        model.insert(format!("/{path}"), if is_dir { "dir".to_owned() } else { offset.to_string() });
        entries.push(if is_dir { dir(path) } else { file(path, offset) });
    }
    entries
}

proptest! {
    #[test]
    fn every_prefix_equals_the_model(layers in steps()) {
        let mut model = BTreeMap::new();
        let mut expected = Vec::new();
        let mut entries = Vec::new();
        for (at, steps) in layers.iter().enumerate() {
            entries.push(apply(&mut model, steps, at));
            expected.push(model.clone());
        }
        let index = index_of(entries);
        for (at, expected) in expected.iter().enumerate() {
            prop_assert_eq!(&listing(&index, u16::try_from(at + 1).unwrap()), expected);
        }
    }

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
