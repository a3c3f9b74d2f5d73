//! The merged tree, read through the index, against what containerd and overlayfs make of the same layers:
//! cases, and random layers against a naive model of both.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{dir, entry, expect, file, index_of, link, listed, listing, symlink};
use crate::tree::TreeBuilder;
use crate::{Entry, EntryKind, Xattr};

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

/// overlayfs shows a directory's own links where one layer has it, and 1 where it merges several.
#[test]
fn directories_count_their_links_as_overlayfs_does() {
    let index = index_of(vec![
        vec![dir("a"), dir("a/b"), dir("a/c"), file("a/f", 1), dir("d"), dir("d/x"), dir("g"), dir("g/h")],
        vec![file("a/c/new", 2), dir("d"), file("d/.wh..wh..opq", 0), dir("d/y"), dir("d/z")],
        vec![file("d/f", 3), file(".wh.g", 0)],
        vec![dir("g")],
    ]);
    let links = |path: &str, prefix: u16| {
        let view = index.view(prefix).unwrap();
        let steps = path.split('/').filter(|name| !name.is_empty());
        let found =
            steps.fold(view.root().unwrap(), |at, name| view.lookup(at, name.as_bytes()).unwrap().unwrap());
        index.attributes(found).unwrap().nlink
    };
    assert_eq!([1, 2, 3, 4].map(|prefix| links("", prefix)), [5, 1, 1, 1]);
    assert_eq!([1, 2].map(|prefix| links("a", prefix)), [4, 1]);
    assert_eq!([1, 4].map(|prefix| links("a/b", prefix)), [2, 2]);
    assert_eq!([1, 2].map(|prefix| links("a/c", prefix)), [2, 1]);
    assert_eq!([1, 2, 3].map(|prefix| links("d", prefix)), [3, 4, 1]);
    assert_eq!([1, 4].map(|prefix| links("g", prefix)), [3, 2]);
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

/// What an unpacker leaves of one layer alone.
#[derive(Clone, Debug, PartialEq)]
enum Left {
    Dir { opaque: bool },
    File(u64),
    Whiteout,
}

/// Unpacks one layer into an empty directory; also its entries, without those that an unpacker refuses.
fn unpack(steps: &[Step], layer: usize) -> (BTreeMap<String, Left>, Vec<Entry>) {
    let (mut left, mut entries): (BTreeMap<String, Left>, _) = (BTreeMap::new(), Vec::new());
    for (at, step) in steps.iter().enumerate() {
        let offset = (layer * 100 + at) as u64;
        let (path, added) = match step {
            Step::File(path) => (path, file(path, offset)),
            Step::Dir(path) => (path, dir(path)),
            Step::Opaque(path) => (path, file(&format!("{path}/.wh..wh..opq"), 0)),
            Step::Whiteout(path) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                (path, file(&format!("{parent}/.wh.{name}"), 0))
            }
        };
        let mut parents: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
        parents.extend(matches!(step, Step::Opaque(_)).then_some(path.as_str()));
        if parents.iter().any(|parent| matches!(left.get(*parent), Some(Left::File(_)))) {
            continue;
        }
        entries.push(added);
        for parent in parents {
            let opaque = matches!(left.get(parent), Some(Left::Whiteout | Left::Dir { opaque: true }));
            left.insert(parent.to_owned(), Left::Dir { opaque });
        }
        let own = left.get(path).cloned();
        let now = match (step, own) {
            (Step::Opaque(_), _) | (Step::Whiteout(_), Some(Left::Dir { .. })) => Left::Dir { opaque: true },
            (Step::Whiteout(_), own) => own.unwrap_or(Left::Whiteout),
            (Step::Dir(_), Some(known @ Left::Dir { .. })) => known,
            (Step::Dir(_), _) => Left::Dir { opaque: false },
            (Step::File(_), _) => {
                left.retain(|have, _| !have.starts_with(&format!("{path}/")));
                Left::File(offset)
            }
        };
        left.insert(path.clone(), now);
    }
    (left, entries)
}

/// Lays what one layer left over what is below, as overlayfs does.
fn merge(below: &mut BTreeMap<String, String>, layer: &BTreeMap<String, Left>) {
    for (path, left) in layer {
        let path = format!("/{path}");
        if *left != (Left::Dir { opaque: false }) {
            below.retain(|have, _| !have.starts_with(&format!("{path}/")));
        }
        match left {
            Left::Whiteout => drop(below.remove(&path)),
            Left::Dir { .. } => drop(below.insert(path, "dir".to_owned())),
            Left::File(offset) => drop(below.insert(path, offset.to_string())),
        }
    }
}

proptest! {
    #[test]
    fn every_prefix_equals_the_model(layers in steps()) {
        let mut model = BTreeMap::new();
        let (mut expected, mut entries) = (Vec::new(), Vec::new());
        for (at, steps) in layers.iter().enumerate() {
            let (left, own) = unpack(steps, at);
            merge(&mut model, &left);
            expected.push(model.clone());
            entries.push(own);
        }
        let index = index_of(entries);
        for (at, expected) in expected.iter().enumerate() {
            prop_assert_eq!(&listing(&index, u16::try_from(at + 1).unwrap()), expected);
        }
    }
}
