use proptest::prelude::*;

use super::*;
use crate::tar::fixture::{GNU, Head, Tar, old_gnu_sparse, seal};
use crate::{EntryKind, EntryPath, Timestamp};

/// All events of a tar pushed in slices of `step` bytes, adjacent pieces joined.
fn events(tar: &[u8], step: usize) -> Result<Vec<Owned>, ScanError> {
    let mut scanner = Scanner::new();
    let mut events: Vec<Owned> = Vec::new();
    let mut sink = |event: Event<'_>| {
        let (kind, bytes) = match event {
            Event::Header(bytes) => (b'h', bytes),
            Event::Content(bytes) => (b'c', bytes),
            Event::Padding(bytes) => (b'p', bytes),
            Event::Trailing(bytes) => (b't', bytes),
            Event::Member(member) => return events.push(Owned::Member(member)),
            Event::GlobalHeader => return events.push(Owned::Global),
        };
        match events.last_mut() {
            Some(Owned::Bytes(last, joined)) if *last == kind => joined.extend_from_slice(bytes),
            _ => events.push(Owned::Bytes(kind, bytes.to_vec())),
        }
    };
    for slice in tar.chunks(step.max(1)) {
        scanner.push(slice, &mut sink)?;
    }
    scanner.finish()?;
    Ok(events)
}

#[derive(Debug, PartialEq)]
enum Owned {
    Bytes(u8, Vec<u8>),
    Member(Box<Member>),
    Global,
}

fn members(tar: &Tar) -> Vec<Member> {
    try_members(tar).unwrap()
}

fn try_members(tar: &Tar) -> Result<Vec<Member>, ScanError> {
    let only = |event| if let Owned::Member(member) = event { Some(*member) } else { None };
    Ok(events(&tar.bytes, usize::MAX)?.into_iter().filter_map(only).collect())
}

fn only(tar: Tar) -> Member {
    let mut all = members(&tar);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn tells_where_every_file_lies() {
    let tar = Tar::default()
        .dir("./a/")
        .file("./a/b", b"hello")
        .file("c", &[7; 512])
        .link(b'1', "d", "./a/b")
        .end();
    let all = members(&tar);
    let found: Vec<_> =
        all.iter().map(|m| (m.entry.path.to_string(), m.header.0, m.content.clone())).collect();
    let at = |path: &str, header, content| (path.to_owned(), header, content);
    assert_eq!(
        found,
        [
            at("/a", 0, 512..512),
            at("/a/b", 512, 1024..1029),
            at("/c", 1536, 2048..2560),
            at("/d", 2560, 3072..3072)
        ]
    );
    assert_eq!(all[0].entry.kind, EntryKind::Directory);
    assert_eq!(
        all[1].entry.kind,
        EntryKind::Regular { size: 5, content: Content::Contiguous(TarOffset(1024)) }
    );
    assert_eq!(all[3].entry.kind, EntryKind::HardLink { target: EntryPath::parse(b"a/b").unwrap() });
    assert_eq!(all[1].entry.mtime, Timestamp { seconds: 1_700_000_000, nanoseconds: 0 });
}

#[test]
fn pax_overrides_names_owners_times_and_sizes() {
    let long = "d/".repeat(150) + "f";
    let tar = Tar::default()
        .pax(&[
            ("path", long.as_bytes()),
            ("uid", b"3000000"),
            ("gid", b"4294967295"),
            ("mtime", b"-1.25"),
            ("atime", b"7.5"),
            ("size", b"5"),
            ("SCHILY.xattr.security.capability", b"\x01\x00\xff="),
            ("SCHILY.xattr.user.a", b""),
        ])
        .file("short", b"")
        .content(b"hello")
        .end();
    let member = only(tar);
    assert_eq!(member.entry.path.as_bytes(), long.as_bytes());
    assert_eq!((member.entry.uid, member.entry.gid), (3_000_000, u32::MAX));
    assert_eq!(member.entry.mtime, Timestamp { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!(member.written.atime, Some(Timestamp { seconds: 7, nanoseconds: 500_000_000 }));
    assert_eq!(member.content.end - member.content.start, 5);
    let xattrs: Vec<_> = member.entry.xattrs.iter().map(|x| (&*x.name, &*x.value)).collect();
    assert_eq!(xattrs, [(b"security.capability" as &[u8], b"\x01\x00\xff=" as &[u8]), (b"user.a", b"")]);
    assert_eq!(member.header, TarOffset(0));
}

#[test]
fn gnu_long_names_and_negative_base_256_times() {
    let mut block = Head { name: b"short", typeflag: b'2', magic: GNU, ..Head::default() }.block();
    block[136..148].copy_from_slice(&[0xff; 12]);
    block[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x30, 0, 0]);
    seal(&mut block);
    let tar =
        Tar::default().extension(b'L', b"long/name\0").extension(b'K', b"/long/target\0").raw(&block).end();
    let member = only(tar);
    assert_eq!(member.entry.path.to_string(), "/long/name");
    assert_eq!(member.entry.kind, EntryKind::Symlink { target: b"/long/target".as_slice().into() });
    assert_eq!(member.entry.mtime, Timestamp { seconds: -1, nanoseconds: 0 });
    assert_eq!(member.entry.uid, 0x0030_0000);
}

#[test]
fn what_go_and_containerd_make_of_odd_headers() {
    let odd = |typeflag, name: &'static [u8], size| {
        Tar::default().head(Head { name, typeflag, size, ..Head::default() })
    };
    assert_eq!(only(odd(0, b"dir/", 0).end()).entry.kind, EntryKind::Directory);
    assert!(matches!(only(odd(b'0', b"file/", 0).end()).entry.kind, EntryKind::Regular { size: 0, .. }));
    assert_eq!(only(odd(b'5', b"dir", 4096).end()).entry.kind, EntryKind::Directory);
    let linked = odd(b'1', b"", 9).end();
    assert!(only(linked).content.is_empty());
    assert!(matches!(
        only(odd(b'7', b"f", 1).content(b"x").end()).entry.kind,
        EntryKind::Regular { size: 1, .. }
    ));
    let device =
        Tar::default().head(Head { name: b"null", typeflag: b'3', device: (1, 3), ..Head::default() }).end();
    assert_eq!(only(device).entry.kind, EntryKind::CharDevice { major: 1, minor: 3 });
    assert_eq!(only(odd(b'0', b"f", 0)).entry.path.to_string(), "/f", "no end blocks");
    assert_eq!(only(odd(b'0', b"f", 0).raw(&[0; 512])).entry.path.to_string(), "/f", "one end block");
    let unpadded = odd(b'0', b"f", 3).raw(b"abc");
    assert_eq!(only(unpadded).content, 512..515, "no padding at the very end");
    assert_eq!(members(&Tar::default()), []);
}

#[test]
fn global_headers_are_ignored_as_runtimes_ignore_them() {
    let tar = Tar::default().extension(b'g', b"12 uid=4711\n").file("f", b"").end();
    assert_eq!(only(tar.clone()).entry.uid, 0);
    assert!(events(&tar.bytes, 100).unwrap().contains(&Owned::Global));
}

#[test]
fn what_follows_the_end_is_still_the_tar() {
    let tar = Tar::default().file("f", b"x").end().raw(b"anything at all");
    let last = events(&tar.bytes, 7).unwrap().pop();
    assert_eq!(last, Some(Owned::Bytes(b't', b"anything at all".to_vec())));
}

fn extents(member: &Member) -> Vec<(u64, u64, u64)> {
    let EntryKind::Regular { content: Content::Sparse(extents), .. } = &member.entry.kind else {
        panic!("{member:?} is not sparse")
    };
    extents.iter().map(|e| (e.file_offset, e.tar_offset.0, e.len)).collect()
}

#[test]
fn old_gnu_sparse_files_with_extension_blocks() {
    let [block, extension] = old_gnu_sparse(b"s", 512, 1024);
    let tar = Tar::default().raw(&block).raw(&extension).raw(&[1; 512 * 6]).file("after", b"").end();
    let all = members(&tar);
    assert_eq!(extents(&all[0])[3..], [(12288, 1024 + 1536, 512), (16384, 1024 + 2048, 1024)]);
    assert!(matches!(all[0].entry.kind, EntryKind::Regular { size: 100_000, .. }));
    assert_eq!(all[1].entry.path.to_string(), "/after");
}

#[test]
fn pax_sparse_files_of_every_format() {
    let zero_zero = Tar::default().pax(&[
        ("GNU.sparse.size", b"5000"),
        ("GNU.sparse.offset", b"1"),
        ("GNU.sparse.numbytes", b"2"),
        ("GNU.sparse.offset", b"4998"),
        ("GNU.sparse.numbytes", b"2"),
    ]);
    let zero_one = Tar::default().pax(&[
        ("GNU.sparse.size", b"5000"),
        ("GNU.sparse.name", b"real"),
        ("GNU.sparse.map", b"1,2,4998,2"),
    ]);
    for (tar, name) in [(zero_zero, "/s"), (zero_one, "/real")] {
        let member = only(tar.file("s", b"abcd").end());
        let start = member.content.start;
        assert_eq!(extents(&member), [(1, start, 2), (4998, start + 2, 2)]);
        assert!(matches!(member.entry.kind, EntryKind::Regular { size: 5000, .. }));
        assert_eq!(member.entry.path.to_string(), name);
    }
    let one = Tar::default().pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"5000"),
        ("GNU.sparse.name", b"real"),
    ]);
    let mut content = b"2\n1\n2\n4998\n2\n".to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"abcd");
    let member = only(one.file("GNUSparseFile.0/s", &content).end());
    let start = member.content.start;
    assert_eq!(extents(&member), [(1, start, 2), (4998, start + 2, 2)]);
    assert_eq!(member.content.end - start, 4);
}

#[test]
fn refuses_with_a_reason_and_a_place() {
    let good = Tar::default().file("good", b"x");
    let file = |name: &'static [u8], typeflag| Head { name, typeflag, ..Head::default() };
    let sparse = |map: &'static [u8]| {
        good.clone().pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", b"10")]).file("s", b"ab").end()
    };
    for (tar, want) in [
        (good.clone().raw(&[1; 512]), "tar offset 1024: not a tar header: checksum mismatch"),
        (good.clone().head(file(b"v", b'V')), "tar offset 1024: entry \"v\" has unsupported type 'V'"),
        (
            good.clone().link(b'2', "v", ""),
            "tar offset 1024: symbolic link \"v\" has a target of 0 bytes, which Linux cannot hold",
        ),
        (
            good.clone().pax(&[("linkpath", &[b't'; 4096])]).link(b'2', "v", ""),
            "tar offset 1024: symbolic link \"v\" has a target of 4096 bytes, which Linux cannot hold",
        ),
        (
            good.clone().head(Head { size: 10, ..file(b"t", b'0') }).raw(b"abc"),
            "tar offset 1539: tar ends within \"t\", 7 bytes short",
        ),
        (good.clone().raw(&[0; 100]), "tar offset 1124: tar ends within a header"),
        (good.clone().raw(&[0; 512]).file("x", b""), "tar offset 1024: a lone zero block in front of data"),
        (good.clone().extension(b'x', b"garbage"), "tar offset 1024: malformed PAX record"),
        (good.clone().pax(&[("uid", b"x")]), "tar offset 1024: PAX record uid=\"x\" is malformed"),
        (
            good.clone().pax(&[("uid", b"-1")]).file("u", b""),
            "tar offset 1024: entry \"u\" has uid -1, which Linux cannot hold",
        ),
        (
            good.clone().pax(&[("size", b"-1")]).file("u", b""),
            "tar offset 1024: entry \"u\" has a negative size",
        ),
        (
            good.clone().head(Head { size: 1 << 21, ..file(b"x", b'x') }),
            "tar offset 1024: extension header of 2097152 bytes is longer than 1048576",
        ),
        (sparse(b"0,1"), "tar offset 1024: sparse file \"s\": map and stored bytes differ in length"),
        (
            sparse(b"4,1,0,1"),
            "tar offset 1024: sparse file \"s\": map's stretches overlap or are out of order",
        ),
        (sparse(b"9,2"), "tar offset 1024: sparse file \"s\": map reaches beyond the file's end"),
    ] {
        assert_eq!(try_members(&tar).unwrap_err().to_string(), want);
    }
}

fn arbitrary_tar() -> impl Strategy<Value = Tar> {
    let member = (0..7_u8, "[a-z]{1,8}(/[a-z]{1,8}){0,12}", proptest::collection::vec(any::<u8>(), 0..1500));
    proptest::collection::vec(member, 0..8).prop_map(|members| {
        members.into_iter().fold(Tar::default(), |tar, (kind, name, content)| match kind {
            0 => tar.dir(&name[..name.len().min(99)]),
            1 => tar.link(b'2', &name[..name.len().min(99)], "target"),
            2 => tar.extension(b'L', name.as_bytes()).file("short", &content),
            3 => tar.pax(&[("path", name.as_bytes()), ("mtime", b"1.5")]).file("short", &content),
            4 => tar.extension(b'g', b"12 comment=\n").file("g", &content),
            _ => tar.file(&name[..name.len().min(99)], &content),
        })
    })
}

proptest! {
    #[test]
    fn slicing_makes_no_difference(tar in arbitrary_tar(), step in 1..3000_usize) {
        let tar = tar.end().raw(b"trailing");
        let whole = events(&tar.bytes, usize::MAX);
        prop_assert!(whole.is_ok());
        prop_assert_eq!(whole, events(&tar.bytes, step));
    }

    #[test]
    fn every_byte_is_in_one_event(tar in arbitrary_tar(), step in 1..3000_usize) {
        let tar = tar.end();
        let pieces = events(&tar.bytes, step).unwrap().into_iter();
        let bytes: Vec<u8> = pieces.flat_map(|e| if let Owned::Bytes(_, bytes) = e { bytes } else { vec![] }).collect();
        prop_assert_eq!(bytes, tar.bytes);
    }

    #[test]
    fn skipping_content_changes_nothing_else(tar in arbitrary_tar()) {
        let tar = tar.end();
        let whole = members(&tar);
        let (mut scanner, mut found) = (Scanner::new(), Vec::new());
        let mut at = 0;
        while at < tar.bytes.len() {
            // A block at a time: what is pushed ends with a member's headers, never within its content.
            let next = (at / 512 + 1) * 512;
            scanner.push(&tar.bytes[at..next], &mut |event| match event {
                Event::Member(member) => found.push(*member),
                Event::Content(_) => panic!("content was pushed"),
                _ => {}
            }).unwrap();
            at = next + usize::try_from(scanner.content_left()).unwrap();
            prop_assert_eq!(scanner.skip_content(), (at - next) as u64);
            prop_assert_eq!(scanner.offset(), TarOffset(at as u64));
            let padded = at.next_multiple_of(512);
            scanner.push(&tar.bytes[at..padded], &mut |_| ()).unwrap();
            at = padded;
        }
        prop_assert!(scanner.finish().is_ok());
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 512..4096), flag in any::<u8>()) {
        let _ = events(&bytes, 100);
        // With a valid checksum, the fields are reached too.
        bytes[156] = flag;
        let mut block: [u8; 512] = bytes[..512].try_into().unwrap();
        seal(&mut block);
        bytes[..512].copy_from_slice(&block);
        let _ = events(&bytes, 333);
    }

    #[test]
    fn damaged_tars_never_panic(tar in arbitrary_tar(), at in any::<prop::sample::Index>(), byte in any::<u8>(), reseal in any::<bool>()) {
        let mut bytes = tar.end().bytes;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let start = at / 512 * 512;
        if let (true, Some(Ok(mut block))) = (reseal, bytes.get(start..start + 512).map(<[u8; 512]>::try_from)) {
            seal(&mut block);
            bytes[start..start + 512].copy_from_slice(&block);
        }
        let _ = events(&bytes, 512);
    }
}
