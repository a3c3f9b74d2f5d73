use super::sample::{DYNAMIC, KINDS, Kind, NAME, STRINGS};
use super::*;

fn piece<'f>(file: &'f [u8], range: &Range<u64>) -> &'f [u8] {
    &file[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
}

/// What a file's interpreter is called, and what it is linked with.
fn read(file: &[u8]) -> (Option<String>, Names) {
    let head = Head::parse(file).unwrap();
    let dynamic = head.read_dynamic(piece(file, head.dynamic.as_ref().unwrap()));
    let interpreter = head.interpreter.as_ref().and_then(|range| name(piece(file, range)));
    (interpreter, dynamic.names(piece(file, dynamic.strings.as_ref().unwrap())))
}

#[test]
fn programs_of_both_classes_and_byte_orders_are_read_wherever_they_lie_in_memory() {
    for kind in KINDS {
        let file = kind.program();
        let head = Head::parse(&file).unwrap();
        let len = file.len() as u64;
        let segment =
            |file, is_executable, is_writable, address| Segment { file, is_executable, is_writable, address };
        let segments = [
            segment(0..DYNAMIC, true, false, sample::ADDRESS),
            segment(DYNAMIC..len, false, true, sample::ADDRESS + DYNAMIC),
        ];
        assert_eq!(head.segments, segments, "{kind:?}");
        assert_eq!((head.interpreter, head.dynamic), (Some(NAME..NAME + 7), Some(DYNAMIC..len)), "{kind:?}");
        let names = Names {
            needed: ["libone.so", "libtwo.so"].map(str::to_owned).into(),
            rpath: None,
            runpath: Some("$ORIGIN".to_owned()),
        };
        assert_eq!(read(&file), (Some("/ld.so".to_owned()), names), "{kind:?}");
        for shift in 1..8 {
            let shifted = [&vec![0; shift][..], &file].concat();
            assert_eq!(read(&shifted[shift..]), read(&file), "{kind:?} {shift}");
        }
    }
}

#[test]
fn this_very_program_is_linked_with_the_c_library() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let (interpreter, names) = read(&file);
    assert!(interpreter.unwrap().starts_with("/lib"));
    assert!(names.needed.iter().any(|name| name.starts_with("libc.")), "{names:?}");
}

#[test]
fn of_a_head_that_is_cut_short_or_lies_nothing_is_believed() {
    for kind in KINDS {
        let head = kind.head(&[(1, 6, 0, 100)]);
        assert!(Head::parse(&head).is_some());
        assert!((0..head.len()).all(|len| Head::parse(&head[..len]).is_none()), "{kind:?}");
        let many = |count| Head::parse(&kind.head(&vec![(1, 6, 0, 100); count]));
        assert!(many(MAX_SEGMENTS).is_some() && many(MAX_SEGMENTS + 1).is_none(), "{kind:?}");
    }
    let kind = Kind { is_64: true, is_big: false };
    let mut beyond = kind.head(&[(1, 6, 0, 100)]);
    let end = beyond.len();
    // Offset and length of the segment.
    beyond[end - 48..end - 40].fill(0xff);
    assert_eq!(Head::parse(&beyond), None);
    let long = Head::parse(&kind.head(&[(3, 4, 0, PATH_MAX as u64 + 1), (2, 6, 0, MAX_TABLE + 1)])).unwrap();
    assert_eq!((long.interpreter, long.dynamic), (None, None));
}

#[test]
fn a_table_of_strings_is_in_a_segment_and_names_are_in_the_table() {
    let kind = Kind { is_64: true, is_big: false };
    let file = kind.program();
    let at = usize::try_from(DYNAMIC).unwrap();
    // The address and the length of the table.
    for entry in [3, 4] {
        let mut odd = file.clone();
        odd[at + entry * 16 + 8..at + entry * 16 + 16].fill(0xff);
        let head = Head::parse(&odd).unwrap();
        assert_eq!(head.read_dynamic(&odd[at..]).strings, None, "{entry}");
    }
    let head = Head::parse(&file).unwrap();
    let dynamic = head.read_dynamic(&file[at..]);
    assert_eq!(dynamic.strings, Some(STRINGS..STRINGS + 29));
    assert_eq!(
        dynamic.names(b"\0libone.so\0libtw"),
        Names { needed: vec!["libone.so".to_owned()], ..Names::default() }
    );
    assert_eq!(head.read_dynamic(&[]), Dynamic::default());
    let endless: Vec<u8> = [1_u64, 1].repeat(1000).iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(head.read_dynamic(&endless).names(b"\0a\0").needed.len(), MAX_NEEDED);
    let long = [&[b'n'; PATH_MAX + 1][..], b"\0"].concat();
    assert_eq!([name(&long), name(b"\0"), name(b"no end"), name(b"\xff\0")], [None, None, None, None]);
    assert_eq!(name(&long[1..]).unwrap().len(), PATH_MAX);
}
