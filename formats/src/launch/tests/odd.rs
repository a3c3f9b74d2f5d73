//! Layers that no tool should write: read as containerd reads them, or refused.

use super::{dir, entry, expect, file, index_of, link, listed, symlink};
use crate::tree::{TreeBuilder, TreeError};
use crate::{Entry, EntryKind, Xattr};

/// What it shows, the layers, and what containerd and overlayfs show of them all (tests/tests/odd_layers.rs).
type Case = (&'static str, Vec<Vec<Entry>>, Vec<(&'static str, &'static str)>);

#[test]
fn odd_layers_merge_as_overlayfs_merges_what_containerd_unpacks() {
    let base = || vec![dir("d"), file("d/a", 1), file("f", 2)];
    let with = |over: Vec<Entry>| vec![base(), over];
    let opaque_root = file(".wh..wh..opq", 0);
    let cases: Vec<Case> = vec![
        (
            "names that lead out of the layer are clamped to its root",
            vec![vec![file("../x", 1), file("a/../../y", 2), file("/abs", 3), link("../l", "../../x")]],
            vec![("/abs", "3"), ("/l", "1"), ("/x", "1"), ("/y", "2")],
        ),
        (
            "what stands for the root is skipped, whatever it is",
            vec![vec![file("./", 1), symlink("/", "x"), file("..", 2), file("g", 3)]],
            vec![("/g", "3")],
        ),
        (
            "a directory takes a whiteout's place, and is merged",
            with(vec![file(".wh.d", 0), dir("d"), file("d/n", 9)]),
            vec![("/d", "dir"), ("/d/a", "1"), ("/d/n", "9"), ("/f", "2")],
        ),
        (
            "a file takes a whiteout's place",
            with(vec![file(".wh.d", 0), file("d", 9)]),
            vec![("/d", "9"), ("/f", "2")],
        ),
        (
            "a whiteout speaks of the layers below, not of its own",
            with(vec![dir("d"), file("d/n", 9), file(".wh.d", 0), file("f", 8), file(".wh.f", 0)]),
            vec![("/d", "dir"), ("/d/n", "9"), ("/f", "8")],
        ),
        (
            "a whiteout twice, and of nothing",
            with(vec![file(".wh.f", 0), file(".wh.f", 0), file("d/.wh.none", 0)]),
            vec![("/d", "dir"), ("/d/a", "1")],
        ),
        (
            "below a whiteout only its own layer shows",
            with(vec![file(".wh.d", 0), file("d/n", 9)]),
            vec![("/d", "dir"), ("/d/n", "9"), ("/f", "2")],
        ),
        (
            "the root is never opaque",
            with(vec![opaque_root, file("n", 9)]),
            vec![("/d", "dir"), ("/d/a", "1"), ("/f", "2"), ("/n", "9")],
        ),
        (
            "a marker makes its directory",
            with(vec![file("o/.wh..wh..opq", 0), file("w/.wh.x", 0)]),
            vec![("/d", "dir"), ("/d/a", "1"), ("/f", "2"), ("/o", "dir"), ("/w", "dir")],
        ),
        (
            "a directory made anew is opaque no more",
            with(vec![file("d/.wh..wh..opq", 0), file("d", 8), dir("d")]),
            vec![("/d", "dir"), ("/d/a", "1"), ("/f", "2")],
        ),
        (
            "opaque before and behind its entries is the same",
            with(vec![file("d/.wh..wh..opq", 0), file("d/n", 9), file("d/.wh..wh..opq", 0)]),
            vec![("/d", "dir"), ("/d/n", "9"), ("/f", "2")],
        ),
        (
            "a symbolic link of a lower layer is replaced, not followed",
            vec![vec![dir("usr"), symlink("lib", "usr")], vec![file("lib/x", 9)]],
            vec![("/lib", "dir"), ("/lib/x", "9"), ("/usr", "dir")],
        ),
        (
            "a hard link to a file that was replaced since keeps it",
            vec![vec![file("t", 1), link("l", "t"), link("m", "l"), file("t", 2), link("n", "t")]],
            vec![("/l", "1"), ("/m", "1"), ("/n", "2"), ("/t", "2")],
        ),
        (
            "hard links go by way of symbolic links, and to them",
            vec![vec![
                file("d/t", 1),
                symlink("s", "/d"),
                link("l", "s/t"),
                link("s/m", "l"),
                link("k", "s"),
            ]],
            vec![("/d", "dir"), ("/d/m", "1"), ("/d/t", "1"), ("/k", "/d"), ("/l", "1"), ("/s", "/d")],
        ),
        (
            "links that climb stop at the root",
            vec![vec![
                dir("usr"),
                symlink("up", "../../../usr"),
                file("up/z", 3),
                symlink("gone", "no/where"),
                file("gone/q", 4),
            ]],
            vec![
                ("/gone", "no/where"),
                ("/no", "dir"),
                ("/no/where", "dir"),
                ("/no/where/q", "4"),
                ("/up", "../../../usr"),
                ("/usr", "dir"),
                ("/usr/z", "3"),
            ],
        ),
    ];
    for (case, layers, want) in cases {
        let prefix = u16::try_from(layers.len()).unwrap();
        assert_eq!(listed(&index_of(layers), prefix), expect(&want), "{case}");
    }
}

#[test]
fn a_directory_that_is_repeated_keeps_attributes_that_are_not_named_again() {
    let marked = |mode, name: &str| {
        let xattr = Xattr { name: name.as_bytes().into(), value: b"1"[..].into() };
        Entry { mode, xattrs: vec![xattr], ..dir("d") }
    };
    let names_and_mode = |layers: Vec<Vec<Entry>>| {
        let prefix = u16::try_from(layers.len()).unwrap();
        let index = index_of(layers);
        let view = index.view(prefix).unwrap();
        let d = view.lookup(view.root().unwrap(), b"d").unwrap().unwrap();
        let names = index
            .xattrs(d)
            .unwrap()
            .iter()
            .map(|x| String::from_utf8_lossy(&x.name).into_owned())
            .collect::<Vec<_>>();
        (names.join(" "), index.attributes(d).unwrap().mode)
    };
    let (a, b) = (|| marked(0o700, "user.a"), || marked(0o711, "user.b"));
    assert_eq!(names_and_mode(vec![vec![a(), b()]]), ("user.a user.b".to_owned(), 0o711));
    assert_eq!(names_and_mode(vec![vec![a()], vec![b()]]), ("user.b".to_owned(), 0o711), "another layer");
    let implied_first = vec![vec![a()], vec![file("d/x", 1), b()]];
    assert_eq!(names_and_mode(implied_first), ("user.a user.b".to_owned(), 0o711));
    assert_eq!(names_and_mode(vec![vec![a(), file("d", 1), b()]]), ("user.b".to_owned(), 0o711), "made anew");
}

fn refusal(entries: Vec<Entry>) -> String {
    TreeBuilder::new().push_layer(entries).unwrap_err().to_string()
}

#[test]
fn entries_that_form_no_tree_are_refused() {
    for (entries, want) in [
        (vec![link("l", "t"), file("t", 1)], "hard link /l points at /t"),
        (vec![dir("t"), link("l", "t")], "hard link /l points at /t"),
        (vec![file("t", 1), link("l", "/")], "hard link /l points at /"),
        (vec![file("t", 1), link("l", "t/x")], "hard link /l points at /t/x"),
        (vec![symlink("s", "s"), link("l", "s/x")], "entry /l lies below a loop"),
        (vec![symlink("s", "s"), file("s/x", 1)], "entry /s/x lies below a loop"),
        (vec![file("d/f", 1), symlink("s", "d/f"), file("s/x/y", 1)], "entry /s/x/y lies below /d/f, which"),
        (vec![entry("p", EntryKind::Fifo), file("p/x", 1)], "entry /p/x lies below /p, which"),
        (
            vec![entry("c", EntryKind::CharDevice { major: 1, minor: 3 }), dir("c/x")],
            "entry /c/x lies below /c",
        ),
    ] {
        let refused = refusal(entries);
        assert!(refused.starts_with(want), "{refused}");
    }
}

#[test]
fn as_many_links_are_followed_as_containerd_follows() {
    let chain = |links: usize| {
        let mut entries: Vec<Entry> =
            (0..links).map(|n| symlink(&format!("s{n}"), &format!("s{}", n + 1))).collect();
        entries.extend([dir(&format!("s{links}")), file("s0/x", 1)]);
        TreeBuilder::new().push_layer(entries)
    };
    assert_eq!(chain(255), Ok(()));
    assert!(matches!(chain(256), Err(TreeError::SymlinkLoop(_))));
}

/// Small layers that would cost a reader without limits hours, or all its memory.
#[test]
fn links_and_depth_cannot_be_multiplied() {
    let deep = "d/".repeat(2000);
    let stairs = |n: usize| {
        [symlink(&format!("l{n}"), &format!("l{}/{}", n - 1, &deep[..3000])), file(&format!("l{n}/x"), 1)]
    };
    let mut entries = vec![symlink("l0", &deep[..4000])];
    entries.extend((1..4).flat_map(stairs));
    assert!(refusal(entries).contains("longer than 4096"), "links that lead ever deeper");

    let mut entries = vec![symlink("l", &deep[..4000])];
    entries.extend((0..3_000).map(|n| file(&format!("l/{n}"), 1)));
    assert_eq!(TreeBuilder::new().push_layer(entries[..100].to_vec()), Ok(()));
    assert!(refusal(entries).contains("lead through more than"), "entries below a link to far away");

    let implied = |n: usize| file(&format!("{n}/{}x", &deep[..4000]), 1);
    assert_eq!(TreeBuilder::new().push_layer((0..20).map(implied)), Ok(()));
    assert!(refusal((0..600).map(implied).collect()).contains("without listing them"));
}
