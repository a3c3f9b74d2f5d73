//! Where each byte of a layer belongs.

use proptest::prelude::*;

use crate::store::files::{Files, Place};
use crate::store::large::tests::large;

proptest! {
    #[test]
    fn pieces_cover_a_range_and_each_byte_is_where_it_belongs(
        large_ones in prop::collection::vec((0u64..60, 1u64..20), 0..5), a in 0u64..100, b in 0u64..100,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let ranges: Vec<_> = large_ones.iter().map(|&(start, len)| start..start + len).collect();
        let large = large(&ranges);
        let files = Files::open(directory.path(), large.clone()).unwrap();
        let range = a.min(b)..a.max(b);
        let pieces: Vec<_> = files.pieces(&range).collect();
        let mut at = range.start;
        for (place, piece) in pieces {
            prop_assert_eq!(piece.start, at);
            prop_assert!(piece.end > at);
            for byte in piece.clone() {
                let own = large.ranges().iter().position(|large| large.contains(&byte));
                prop_assert_eq!(place, own.map_or(Place::Packed, Place::Large));
            }
            at = piece.end;
        }
        prop_assert_eq!(at, range.end);
    }
}
