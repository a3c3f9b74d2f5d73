//! doc/SEMANTICS.md S1 and S8 for layers that no tool should write: containerd is the reference for what they mean.
#![allow(clippy::unwrap_used)]

mod common;

use common::Bed;
use jaunt_tests::image::{
    Entry, Image, Layer, char_device, dir, fifo, file, hardlink, layer, opaque, symlink, whiteout,
};
use jaunt_tests::{compare, needs_root};

/// What differs between the image mounted lazily and unpacked. Directories that a layer only implies have
/// another time (S3): those of `implied` are not compared in that.
fn differences(bed: &Bed, image: Image, implied: &[&str]) -> Vec<String> {
    let (image, pushed) = bed.converted(image);
    let node = bed.node();
    node.pull(&pushed.reference).unwrap();
    node.containerd.pull("overlayfs", &pushed.reference).unwrap();
    let chain_id = image.chain_ids().last().unwrap().to_string();
    let lazy = node.containerd.view("jaunt", &chain_id).unwrap();
    let unpacked = node.containerd.view("overlayfs", &chain_id).unwrap();
    let (left, right) = (compare::read(lazy.point()).unwrap(), compare::read(unpacked.point()).unwrap());
    assert!(left.len() > 10, "nothing to compare");
    let mut found = compare::differences(&left, &right);
    let expected: Vec<String> = [""].iter().chain(implied).map(|path| format!("/{path}: mtime: ")).collect();
    found.retain(|line| !expected.iter().any(|start| line.starts_with(start)));
    drop((lazy, unpacked));
    node.containerd.end_view("jaunt", &chain_id).unwrap();
    found
}

/// A directory with two files, for a layer above to change.
fn ground(name: &str) -> [Entry; 3] {
    [
        dir(name, 0o700).owner(5, 6).xattr("user.below", b"1"),
        file(format!("{name}/a"), "1"),
        file(format!("{name}/b"), "2"),
    ]
}

/// S2: What an unpacker cannot write is shown as it leaves it.
/// S8: Names never lead out of a layer: absolute ones and `..` are clamped to its root, and entries below a symbolic
/// link of the layer go where it points within the layer.
#[test]
fn names_links_and_repetitions_read_as_containerd_unpacks_them() {
    needs_root!();
    let chain = (0..255).map(|n| symlink(format!("chain{n}"), format!("chain{}", n + 1)));
    let odd = [
        file("../above", "1"),
        file("x/../../beside", "2"),
        file("/absolute/../name", "3"),
        file("./", "the root"),
        symlink("/", "the root"),
        file("..", "the root"),
        hardlink("to-above", "../above"),
        hardlink("to-absolute", "/name"),
        file("twice", "1"),
        file("twice", "2"),
        dir("dir-then-file", 0o700),
        file("dir-then-file/x", "1"),
        file("dir-then-file", "2"),
        file("file-then-dir", "1"),
        dir("file-then-dir", 0o711),
        dir("dir-twice", 0o700).xattr("user.a", b"1"),
        file("dir-twice/x", "1"),
        dir("dir-twice", 0o711).xattr("user.b", b"2"),
        file("linked", "1"),
        hardlink("link", "linked").mode(0o4711).owner(9, 9).mtime(77, 0).xattr("user.b", b"2"),
        hardlink("link-of-link", "link").mode(0o600),
        file("linked", "anew"),
        hardlink("link-anew", "linked"),
        dir("real", 0o755),
        symlink("way", "real"),
        file("way/below-link", "1"),
        hardlink("by-way", "way/below-link"),
        hardlink("link-to-link", "way"),
        symlink("climbing", "../../../real"),
        file("climbing/below-climbing", "2"),
        symlink("dangling", "made/by/entry"),
        file("dangling/below-dangling", "3"),
        symlink("itself", "."),
        file("itself/below-itself", "4"),
        fifo("pipe"),
        hardlink("pipe-link", "pipe"),
        symlink("attributes", "t").xattr("security.x", b"1").xattr("user.x", b"1").mode(0o600).mtime(5, 6),
        char_device("device", 1, 3).xattr("user.x", b"1").mode(0o4666).owner(1, 2),
        file("namespaces", "").xattr("nodot", b"1").xattr("system.other", b"1").xattr("trusted.mine", b"1"),
        dir("marked", 0o755).xattr("trusted.overlay.opaque", b"y"),
        file("negative", "").mtime(-5, 5),
        file("last-moment", "").mtime(9_223_372_036, 854_775_807),
        file("past-it", "").mtime(9_223_372_036, 854_775_808),
        file("acl", "").mode(0o640).xattr("system.posix_acl_access", ACL),
        file("acl-against-mode", "").mode(0o4751).xattr("system.posix_acl_access", ACL),
        file("acl-of-mode", "")
            .mode(0o640)
            .xattr("system.posix_acl_access", [&ACL[..12], &ACL[20..28], &ACL[36..]].concat()),
        dir("acl-default", 0o750).xattr("system.posix_acl_default", ACL),
    ];
    let image = Image::new().layer(layer(odd.into_iter().chain(chain).chain([
        dir("chain255", 0o755),
        file("chain0/end", "1"),
        symlink("long", "t".repeat(4095)),
    ])));
    let found = differences(&Bed::new(), image, &["made", "made/by", "made/by/entry"]);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}

/// `u::rw-,u:1000:r--,g::r--,m::r--,o::---`
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
    0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// S4: Whiteouts, opaque markers, overlayfs's own attributes (`user.overlay.*` too) and AUFS bookkeeping are never
/// visible.
#[test]
fn whiteouts_and_markers_in_odd_orders_read_as_overlayfs_merges_them() {
    needs_root!();
    let names =
        ["then-dir", "then-file", "marker-first", "marker-twice", "anew", "kept", "device", "listed-late"];
    let below = names.into_iter().flat_map(ground).chain([dir("usr", 0o755), symlink("lib", "/usr")]);
    let above = [
        whiteout("then-dir"),
        dir("then-dir", 0o755),
        file("then-dir/own", "1"),
        whiteout("then-file"),
        file("then-file", "1"),
        opaque("marker-first"),
        file("marker-first/own", "1"),
        dir("marker-twice", 0o755),
        opaque("marker-twice"),
        file("marker-twice/own", "1"),
        opaque("marker-twice"),
        dir("anew", 0o755),
        opaque("anew"),
        file("anew", "a file"),
        dir("anew", 0o700),
        file("kept/.wh..wh.orph", "AUFS"),
        dir(".wh..wh.plnk", 0o700),
        char_device("device/a", 0, 0),
        file("listed-late/own", "1"),
        dir("listed-late", 0o750).xattr("user.above", b"1"),
        opaque("only-marked"),
        whiteout("kept/a"),
        file(".wh..wh..opq", "the root is never opaque"),
        dir("lib", 0o755),
        file("lib/own", "a link of the layer below is replaced"),
    ];
    let image = Image::new().layer(layer(below)).layer(layer(above));
    let found = differences(&Bed::new(), image, &["marker-first", "kept", "device", "only-marked"]);
    assert!(found.is_empty(), "lazy against unpacked:\n{}", found.join("\n"));
}

/// What containerd cannot unpack would not run anywhere else: it is not converted, and said why.
#[test]
fn what_containerd_refuses_is_refused() {
    needs_root!();
    let bed = Bed::new();
    let node = bed.node();
    let below = || layer([file("f", "1")]);
    let cases: [(&str, Vec<Layer>, &str); 8] = [
        ("lower", vec![below(), layer([hardlink("l", "f")])], "hard link /l points at /f"),
        ("before", vec![layer([hardlink("l", "t"), file("t", "1")])], "hard link /l points at /t"),
        ("directory", vec![layer([dir("t", 0o755), hardlink("l", "t")])], "hard link /l points at /t"),
        (
            "loop",
            vec![layer([symlink("a", "b"), symlink("b", "a"), file("a/x", "1")])],
            "loop of symbolic links",
        ),
        ("file", vec![layer([file("f", "1"), file("f/x", "1")])], "below /f, which is not a directory"),
        ("pipe", vec![layer([fifo("p"), file("p/x", "1")])], "below /p, which is not a directory"),
        ("nothing", vec![layer([symlink("s", "")])], "target of 0 bytes"),
        ("name", vec![layer([file("n".repeat(256), "1")])], "component longer than 255 bytes"),
    ];
    for (name, layers, why) in cases {
        let image = layers.into_iter().fold(Image::new(), Image::layer).build().unwrap();
        let pushed = image.push(&bed.registry, &format!("refused/{name}"), "v1").unwrap();
        let refused = bed.binaries.convert(&bed.scratch, &pushed.reference).unwrap_err().to_string();
        assert!(refused.contains(why), "{name}: {refused}");
        assert!(node.containerd.pull("overlayfs", &pushed.reference).is_err(), "{name} was unpacked");
    }
}
