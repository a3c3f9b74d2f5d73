//! The reader of ELF files, whose tables lie wherever they say.

use std::ops::Range;

use crate::elf::{Head, MAX_NEEDED, MAX_SEGMENTS, MAX_TABLE, name};
use crate::entry::PATH_MAX;

/// A file as a whole; what it names is in it.
pub fn elf(data: &[u8]) {
    let Some(head) = Head::parse(data) else { return };
    assert!(head.segments.len() <= MAX_SEGMENTS);
    assert!(head.segments.iter().all(|segment| segment.file.start <= segment.file.end));
    let piece =
        |range: &Range<u64>| data.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
    let mut names: Vec<String> =
        head.interpreter.as_ref().and_then(piece).and_then(name).into_iter().collect();
    if let Some(section) = head.dynamic.as_ref().and_then(piece) {
        let dynamic = head.read_dynamic(section);
        assert!(dynamic.strings.iter().all(|range| range.end - range.start <= MAX_TABLE));
        if let Some(strings) = dynamic.strings.as_ref().and_then(piece) {
            let told = dynamic.names(strings);
            assert!(told.needed.len() <= MAX_NEEDED);
            names.extend(told.needed.into_iter().chain(told.rpath).chain(told.runpath));
        }
    }
    for name in names {
        assert!((1..=PATH_MAX).contains(&name.len()));
        assert!(data.windows(name.len()).any(|window| window == name.as_bytes()));
    }
}
