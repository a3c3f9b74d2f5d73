//! Tars of every kind that has been met in layers, and some that nobody should write: what exactness is
//! tested with, and what fuzzing starts from.

use super::fixture::{GNU, Head, Tar, USTAR, old_gnu_sparse, seal};

/// `cap_net_raw=ep`, as setcap(8) writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `u::rw-,u:1000:r--,g::r--,m::r--,o::---`
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
    0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

/// All of them, by what is odd about them.
pub(crate) fn odd_tars() -> Vec<(&'static str, Vec<u8>)> {
    let mut tars = ends();
    tars.extend(names());
    tars.extend(sparse());
    tars.extend(links());
    tars.extend(numbers());
    tars.extend(kinds());
    tars.into_iter().map(|(name, tar)| (name, tar.bytes)).collect()
}

type Odd = Vec<(&'static str, Tar)>;

fn some() -> Tar {
    Tar::default().dir("d/").file("d/f", b"content")
}

fn ends() -> Odd {
    let long = vec![0; (1 << 20) + 10_240 - 1024];
    vec![
        ("nothing at all", Tar::default()),
        ("no entries", Tar::default().end()),
        ("no end blocks", some()),
        ("one end block", some().raw(&[0; 512])),
        ("two end blocks", some().end()),
        ("record padding", some().end().raw(&[0; 10_240 - 1024])),
        ("long trailing zeros", some().end().raw(&long)),
        ("an odd number of trailing zeros", some().end().raw(&[0; 777])),
        ("junk behind the end", some().end().raw(b"junk").raw(&some().bytes)),
        ("no padding behind the last file", Tar::default().head(head("f", 3)).raw(b"abc")),
        ("padding that is not zero", Tar::default().head(head("f", 3)).raw(b"abc").raw(&[7; 509]).end()),
        ("a file of whole blocks", Tar::default().file("f", &[1; 1024]).end()),
        ("a file of several frames", Tar::default().file("f", &vec![7; (1 << 20) + 3]).file("g", b"x").end()),
    ]
}

fn names() -> Odd {
    let long = "directory/".repeat(11) + "file";
    let mut prefixed = head("name", 0).block();
    prefixed[345..351].copy_from_slice(b"prefix");
    seal(&mut prefixed);
    vec![
        (
            "GNU long names and links",
            Tar::default()
                .extension(b'L', long.as_bytes())
                .extension(b'K', long.as_bytes())
                .link(b'2', "short", "short")
                .extension(b'L', b"ended/by/nul\0")
                .file("short", b"x")
                .end(),
        ),
        ("PAX names", Tar::default().pax(&[("path", long.as_bytes())]).file("short", b"x").end()),
        ("a ustar prefix", Tar::default().raw(&prefixed).end()),
        ("a name that is not UTF-8", Tar::default().head(raw_head(b"n\xff\xfe", b'0')).end()),
        ("a PAX name that is not UTF-8", Tar::default().pax(&[("path", b"\xffp")]).file("short", b"x").end()),
        (
            "a link that is not UTF-8",
            Tar::default().head(Head { link: b"\xff", ..raw_head(b"l", b'2') }).end(),
        ),
        (
            "names that lead out of the layer",
            Tar::default().file("../x", b"1").file("/abs", b"2").link(b'1', "a/../../y", "../../x").end(),
        ),
        ("names for the root", Tar::default().dir("./").file("/", b"x").link(b'2', "..", "t").end()),
        (
            "odd PAX headers",
            Tar::default()
                .pax(&[("path", b"replaced")])
                .pax(&[("comment", b"x"), ("vendor.key", b"\0=\n"), ("path", b"")])
                .file("kept", b"x")
                .extension(b'x', b"")
                .pax(&[("mtime", b"1.5"), ("mtime", b"2.25"), ("uid", b"7"), ("gid", b"")])
                .file("twice", b"y")
                .end(),
        ),
        (
            "PAX globals",
            Tar::default()
                .extension(b'g', b"19 comment=applies\n")
                .file("f", b"x")
                .pax(&[("path", b"dropped")])
                .extension(b'g', b"12 uid=4711\n")
                .file("g", b"y")
                .end(),
        ),
        ("a PAX header at the end", some().pax(&[("path", b"nobody")])),
    ]
}

fn sparse() -> Odd {
    let [old, extension] = old_gnu_sparse(b"old", 256, 512);
    let map: &[(&str, &[u8])] = &[("GNU.sparse.size", b"5000"), ("GNU.sparse.map", b"1,2,4998,2")];
    let pairs: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"5000"),
        ("GNU.sparse.offset", b"1"),
        ("GNU.sparse.numbytes", b"2"),
        ("GNU.sparse.offset", b"4998"),
        ("GNU.sparse.numbytes", b"2"),
    ];
    let in_content: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"5000"),
        ("GNU.sparse.name", b"real"),
    ];
    let mut content = b"2\n1\n2\n4998\n2\n".to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"abcd");
    vec![
        ("old GNU sparse", Tar::default().raw(&old).raw(&extension).raw(&[1; 512 * 3]).file("g", b"x").end()),
        ("PAX sparse 0.0", Tar::default().pax(pairs).file("s", b"abcd").end()),
        ("PAX sparse 0.1", Tar::default().pax(map).file("s", b"abcd").end()),
        ("PAX sparse 1.0", Tar::default().pax(in_content).file("GNUSparseFile.0/s", &content).end()),
    ]
}

fn links() -> Odd {
    let file = || Tar::default().file("t", b"target");
    vec![
        ("hard links in a chain", file().link(b'1', "l", "t").link(b'1', "m", "./l").end()),
        ("a hard link to what comes later", Tar::default().link(b'1', "l", "t").file("t", b"1").end()),
        ("a hard link to a lower layer", Tar::default().link(b'1', "l", "usr/bin/tool").end()),
        (
            "a hard link that claims a size",
            file().head(Head { size: 6, link: b"t", ..raw_head(b"l", b'1') }).end(),
        ),
        ("a path twice", file().file("./t", b"again").dir("t").end()),
        (
            "whiteouts in any order",
            Tar::default()
                .file(".wh.gone", b"")
                .dir("gone")
                .file("d/.wh..wh..opq", b"")
                .file("d/f", b"x")
                .file("d/.wh..wh..opq", b"")
                .file(".wh.f", b"with content")
                .file(".wh..wh.plnk", b"")
                .file(".wh.", b"")
                .end(),
        ),
        ("below a link", Tar::default().dir("a").link(b'2', "l", "/a").file("l/f", b"x").end()),
        ("a loop of links", Tar::default().link(b'2', "a", "b").link(b'2', "b", "a").file("a/f", b"x").end()),
    ]
}

fn numbers() -> Odd {
    let field = |at: usize, bytes: &[u8]| {
        let mut block = Head { magic: GNU, ..head("n", 0) }.block();
        block[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut block);
        Tar::default().raw(&block).end()
    };
    let time = |time: &'static [u8]| Tar::default().pax(&[("mtime", time)]).file("f", b"x").end();
    let mut size = Head { magic: GNU, ..head("n", 0) }.block();
    size[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    seal(&mut size);
    vec![
        ("a base-256 owner", field(108, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff])),
        ("a base-256 negative time", field(136, &[0xff; 12])),
        (
            "a base-256 huge time",
            field(136, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("a base-256 size", Tar::default().raw(&size).content(b"12345").end()),
        ("numbers in spaces", field(108, b"   7 \0\0\0")),
        ("a negative time", time(b"-1.25")),
        ("a time in the year 10000", time(b"253402300800")),
        ("a huge time", time(b"9223372036854775807.999999999")),
        (
            "a PAX size and owners beyond octal",
            Tar::default()
                .pax(&[("size", b"3"), ("uid", b"4294967295"), ("gid", b"3000000")])
                .head(head("f", 0))
                .content(b"abc")
                .end(),
        ),
    ]
}

fn kinds() -> Odd {
    let mut v7 = Head { magic: &[0; 8], mode: 0o4755, uid: 7, ..head("v7", 3) }.block();
    v7[329..345].fill(0);
    seal(&mut v7);
    let mut v7_dir = Head { magic: &[0; 8], typeflag: 0, ..head("v7dir/", 0) }.block();
    v7_dir[329..345].fill(0);
    seal(&mut v7_dir);
    let mut star = Head { magic: USTAR, ..head("star", 0) }.block();
    star[476..488].copy_from_slice(b"00000000001 ");
    star[488..500].copy_from_slice(b"00000000002 ");
    star[508..512].copy_from_slice(b"tar\0");
    seal(&mut star);
    vec![
        ("v7 headers", Tar::default().raw(&v7).content(b"abc").raw(&v7_dir).end()),
        ("a star header", Tar::default().raw(&star).end()),
        (
            "devices, pipes and modes",
            Tar::default()
                .head(Head { device: (1, 3), mode: 0o666, ..raw_head(b"null", b'3') })
                .head(Head { device: (259, 70_000), mode: 0o660, ..raw_head(b"disk", b'4') })
                .head(Head { mode: 0o600, ..raw_head(b"pipe", b'6') })
                .head(Head { mode: 0o6755, uid: 3, gid: 4, ..head("setuid", 0) })
                .head(Head { mode: 0o100_644, ..head("mode-with-type", 0) })
                .head(Head { device: (0, 0), ..raw_head(b"whiteout", b'3') })
                .head(Head { mode: 0o1777, ..raw_head(b"sticky", b'5') })
                .head(Head { size: 4096, ..raw_head(b"sized", b'5') })
                .end(),
        ),
        (
            "a contiguous file",
            Tar::default().head(Head { size: 1, ..raw_head(b"c", b'7') }).content(b"x").end(),
        ),
        (
            "attributes, capabilities, access lists",
            Tar::default()
                .pax(&[
                    ("SCHILY.xattr.security.capability", &CAPABILITY),
                    ("SCHILY.xattr.user.empty", b""),
                    ("SCHILY.xattr.user.ü", b"\0\xff=\n"),
                    ("SCHILY.xattr.system.posix_acl_access", &ACL),
                    ("SCHILY.acl.access", b"user::rw-"),
                ])
                .file("f", b"x")
                .end(),
        ),
    ]
}

fn head(name: &str, size: u64) -> Head<'_> {
    Head { name: name.as_bytes(), size, ..Head::default() }
}

fn raw_head(name: &[u8], typeflag: u8) -> Head<'_> {
    Head { name, typeflag, ..Head::default() }
}
