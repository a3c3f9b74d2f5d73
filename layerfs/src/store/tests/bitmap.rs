//! The bitmap against a set.

use proptest::prelude::*;

use crate::store::bitmap::Bitmap;

proptest! {
    #[test]
    fn behaves_like_a_set(
        bits in 1usize..300,
        changes in prop::collection::vec((any::<bool>(), 0usize..320, 0usize..320), 0..12),
    ) {
        let map = Bitmap::new(bits);
        let mut set = vec![false; bits];
        for (to, a, b) in changes {
            let range = a.min(b)..a.max(b);
            if to { map.set(range.clone()) } else { map.clear(range.clone()) }
            set.iter_mut().enumerate().filter(|(at, _)| range.contains(at)).for_each(|(_, bit)| *bit = to);
        }
        for start in 0..bits {
            for end in [start, start + 1, start + 64, bits] {
                let expected = end <= bits && set[start..end.min(bits)].iter().all(|bit| *bit);
                prop_assert_eq!(map.all(start..end), expected, "{}..{}", start, end);
            }
        }
    }
}
