//! Indexes that show the same, and lies that are found.

use super::super::tests::{dir, entry, file, index_of, link, symlink};
use super::*;
use crate::{Entry, EntryKind, Timestamp, Xattr};

fn image() -> Vec<Vec<Entry>> {
    let su = Entry { mode: 0o4755, ..file("bin/su", 512) };
    let layer = vec![
        dir("bin"),
        su,
        // A link's header is the last word on its file.
        Entry { mode: 0o4755, ..link("bin/sulink", "bin/su") },
        file("bin/ls", 1024),
        symlink("bin/sh", "ls"),
        entry("dev/null", EntryKind::CharDevice { major: 1, minor: 3 }),
    ];
    vec![layer, vec![file("bin/ls", 2048), file("etc/motd", 512), entry("bin/.wh.sh", regular())]]
}

fn regular() -> EntryKind {
    file("x", 0).kind
}

fn differences(one: &LaunchIndex<Vec<u8>>, other: &LaunchIndex<Vec<u8>>, prefix: u16) -> Vec<String> {
    let mut all = Vec::new();
    compare(one, other, prefix, &mut |difference| all.push(difference.to_string())).unwrap();
    all.sort();
    all
}

const NONE: [&str; 0] = [];

#[test]
fn what_an_upper_layer_adds_is_no_difference_below_it() {
    let (two, one) = (index_of(image()), index_of(image()[..1].to_vec()));
    assert_eq!(differences(&two, &index_of(image()), 2), NONE);
    assert_eq!(differences(&two, &one, 1), NONE);
    assert_eq!(differences(&one, &two, 1), NONE);
    compare(&two, &one, 2, &mut |_| {}).unwrap_err();
}

#[test]
fn every_lie_is_found_and_named() {
    type Lie = fn(&mut Vec<Entry>);
    let lies: [(Lie, &[&str]); 12] = [
        (|layer| layer[2].mode = 0o755, &["/bin/su: mode 4755 and 0755"]),
        (|layer| layer[3].mode = 0o4755, &["/bin/ls: mode 0644 and 4755"]),
        (|layer| layer[2].gid = 1, &["/bin/su: owner 0:0 and 0:1"]),
        (
            |layer| layer[3].mtime = Timestamp { seconds: 1, nanoseconds: 0 },
            &[
                "/bin/ls: mtime Timestamp { seconds: 0, nanoseconds: 0 } and Timestamp { seconds: 1, nanoseconds: 0 }",
            ],
        ),
        (|layer| layer[3] = file("bin/ls", 512), &["/bin/ls: content in another place"]),
        (|layer| layer[4] = symlink("bin/sh", "su"), &["/bin/sh: target ls and su"]),
        (
            |layer| {
                layer[2] = link("bin/sulink", "bin/ls");
                layer.swap(2, 3);
            },
            &[
                "/bin/ls: 1 and 2 links",
                "/bin/su: 2 and 1 links",
                "/bin/sulink: a name of another file",
                "/bin/sulink: content in another place",
                "/bin/sulink: mode 4755 and 0644",
            ],
        ),
        (
            |layer| layer[5].kind = EntryKind::CharDevice { major: 8, minor: 0 },
            &["/dev/null: type CharDevice { major: 1, minor: 3 } and CharDevice { major: 8, minor: 0 }"],
        ),
        (|layer| layer.truncate(5), &["/: 4 and 3 links", "/dev: only in the first"]),
        (|layer| layer.push(file("bin/backdoor", 0)), &["/bin/backdoor: only in the second"]),
        (
            |layer| {
                let mark = Xattr { name: b"user.mark"[..].into(), value: b"1"[..].into() };
                layer[3].xattrs.push(mark);
            },
            &["/bin/ls: 0 and 1 extended attributes"],
        ),
        (
            |layer| layer[2] = Entry { path: layer[2].path.clone(), mode: 0o4755, ..layer[1].clone() },
            &["/bin/su: 2 and 1 links", "/bin/sulink: 2 and 1 links", "/bin/sulink: a name of another file"],
        ),
    ];
    let truth = index_of(image()[..1].to_vec());
    for (lie, expected) in lies {
        let mut layer = image().remove(0);
        lie(&mut layer);
        let found = differences(&truth, &index_of(vec![layer]), 1);
        assert!(!found.is_empty());
        assert_eq!(found, expected);
    }
}

#[test]
fn links_to_other_files_of_the_same_look_are_told_apart() {
    let of = |links: [(&str, &str); 2]| {
        let files = vec![file("a", 0), file("b", 0)];
        index_of(vec![files.into_iter().chain(links.map(|(path, target)| link(path, target))).collect()])
    };
    let found = differences(&of([("c", "a"), ("d", "b")]), &of([("c", "b"), ("d", "a")]), 1);
    assert_eq!(found, ["/c: a name of another file", "/d: a name of another file"]);
}
