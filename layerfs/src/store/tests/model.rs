//! Random operations against a naive model: what is there, byte by byte.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Keep(prop::sample::Index),
    Read(prop::sample::Index, u64),
    Flip(prop::sample::Index),
    Evict(prop::sample::Index),
    Complete,
    Hold,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        6 => place().prop_map(Op::Keep),
        4 => (place(), prop_oneof![0..600u64, 0..100_000u64]).prop_map(|(at, len)| Op::Read(at, len)),
        1 => place().prop_map(Op::Flip),
        2 => place().prop_map(Op::Evict),
        2 => Just(Op::Complete),
        1 => Just(Op::Hold),
        1 => Just(Op::Reopen),
    ]
}

/// What is there, byte by byte, and which bytes were changed behind the store's back.
struct Model {
    there: Vec<bool>,
    flipped: Vec<bool>,
    units: Vec<Range<u64>>,
    regions: Vec<Range<u64>>,
    large: LargeFiles,
    complete: bool,
    held: bool,
    handed_out: bool,
}

impl Model {
    fn of(fixture: &Fixture) -> Self {
        let nothing = vec![false; fixture.tar.len()];
        let mut regions: Vec<Range<u64>> = Vec::new();
        for span in fixture.layer.spans.iter().map(Span::tar_range) {
            match regions.last_mut() {
                Some(region) if span.end - region.start <= 64 << 10 => region.end = span.end,
                _ => regions.push(span),
            }
        }
        Self {
            there: nothing.clone(),
            flipped: nothing,
            units: fixture.units(),
            regions,
            large: fixture.large.clone(),
            complete: false,
            held: false,
            handed_out: false,
        }
    }

    /// The units that lie in a range at least in part, by their numbers.
    fn touching(&self, range: &Range<u64>) -> Vec<usize> {
        let touches = |unit: &Range<u64>| unit.start < range.end && range.start < unit.end;
        (0..self.units.len()).filter(|unit| touches(&self.units[*unit])).collect()
    }

    fn clear(&mut self, units: Vec<usize>) {
        for unit in units {
            self.there[self.units[unit].start as usize..self.units[unit].end as usize].fill(false);
        }
    }

    fn evict(&mut self, region: &Range<u64>) {
        if self.held {
            return;
        }
        self.complete = false;
        self.clear(self.touching(region));
        let touched = |large: &&Range<u64>| large.start < region.end && region.start < large.end;
        if self.handed_out {
            for large in self.large.clone().ranges().iter().filter(touched) {
                self.clear(self.touching(large));
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.units.iter().all(|unit| self.has(unit))
    }

    fn has(&self, range: &Range<u64>) -> bool {
        self.there[range.start as usize..range.end as usize].iter().all(|there| *there)
    }

    /// Whether a range is given; units that are found damaged are there no longer.
    fn read(&mut self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        if !self.has(range) {
            return false;
        }
        let damaged = |unit: &usize| {
            let bytes = self.units[*unit].start as usize..self.units[*unit].end as usize;
            self.flipped[bytes].iter().any(|flipped| *flipped)
        };
        let damaged: Vec<usize> = self.touching(range).into_iter().filter(damaged).collect();
        let sound = damaged.is_empty();
        self.complete &= sound;
        self.clear(damaged);
        sound
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn behaves_like_a_set_of_bytes((spans, large) in spans(), ops in prop::collection::vec(op(), 1..40)) {
        let fixture = Fixture::new(&spans, &large);
        let mut model = Model::of(&fixture);
        let mut hold: Option<CompleteLayer> = None;
        let mut file = fixture.open();
        for op in ops {
            match op {
                Op::Keep(span) => {
                    let span = span.index(spans.len());
                    fixture.keep(&file, span);
                    let range = fixture.layer.spans[span].tar_range();
                    let bytes = range.start as usize..range.end as usize;
                    model.there[bytes.clone()].fill(true);
                    model.flipped[bytes].fill(false);
                }
                Op::Read(at, len) => {
                    let start = at.index(fixture.tar.len()) as u64;
                    let range = start..(start + len).min(fixture.tar.len() as u64);
                    prop_assert_eq!(file.has(&range), model.has(&range), "{:?}", range);
                    let read = file.read(&range);
                    prop_assert_eq!(read.is_some(), model.read(&range), "{:?}", range);
                    if let Some(bytes) = read {
                        prop_assert!(bytes == fixture.slice(&range), "wrong bytes at {:?}", range);
                    }
                }
                Op::Flip(at) => {
                    let at = at.index(fixture.tar.len());
                    model.flipped[at] ^= fixture.flip(at as u64);
                }
                Op::Evict(region) => {
                    let region = region.get(&model.regions).clone();
                    let units = model.touching(&region);
                    file.evict(units[0]..units[units.len() - 1] + 1).unwrap();
                    model.evict(&region);
                }
                Op::Complete => {
                    prop_assert_eq!(file.mark_complete().is_ok(), model.is_whole());
                    model.complete |= model.is_whole();
                }
                Op::Hold => {
                    hold = file.hold_complete();
                    prop_assert_eq!(hold.is_some(), model.complete);
                    model.held = model.complete;
                    for large in hold.iter().flat_map(|_| model.large.ranges()) {
                        model.handed_out = true;
                        let backing = hold.as_ref().unwrap().backing(large).unwrap();
                        let end = large.end.min(fixture.tar.len() as u64);
                        if large.start < end && model.units.iter().any(|unit| unit.end >= end) {
                            prop_assert!(backing.is_some());
                        }
                    }
                }
                Op::Reopen => {
                    (hold, model.held) = (None, false);
                    drop(file);
                    file = fixture.open();
                }
            }
        }
        prop_assert_eq!((file.is_complete(), hold.is_some()), (model.complete, model.held));
        let present = model.there.iter().filter(|there| **there).count() as u64;
        prop_assert_eq!(file.present_bytes(), present);
    }
}

/// What becomes of a layer whose files the kernel has mounted.
#[derive(Clone, Debug)]
enum Fate {
    Keep(prop::sample::Index),
    Evict(prop::sample::Index),
    Fill,
    Mount,
    LetGo,
    Quarantine,
    Reopen,
}

fn fate() -> impl Strategy<Value = Fate> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        3 => place().prop_map(Fate::Keep),
        3 => place().prop_map(Fate::Evict),
        3 => Just(Fate::Fill),
        4 => Just(Fate::Mount),
        2 => Just(Fate::LetGo),
        1 => Just(Fate::Quarantine),
        1 => Just(Fate::Reopen),
    ]
}

/// Files as the kernel has them: the packed one, or a large one with its range.
type Mounted = (fs::File, Option<Range<u64>>);

/// All that a complete layer gives to be mounted.
fn mounted(fixture: &Fixture, held: &CompleteLayer) -> Vec<Mounted> {
    let len = fixture.tar.len() as u64;
    let whole = |large: &&Range<u64>| large.end <= len;
    let large = fixture.large.ranges().iter().filter(whole).map(|range| {
        held.blocks(Some(range), range.end - range.start).unwrap().map(|file| (file, Some(range.clone())))
    });
    let packed = held.blocks(None, len).unwrap().map(|file| (file, None));
    std::iter::once(packed).chain(large).flatten().collect()
}

/// Whether a file gives everything that it was mounted for.
fn is_unchanged(fixture: &Fixture, (file, large): &Mounted) -> bool {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let own = large.clone().unwrap_or(0..fixture.tar.len() as u64);
    let elsewhere =
        |at: u64| large.is_none() && fixture.large.ranges().iter().any(|large| large.contains(&at));
    let mut held = fixture.units().into_iter().flatten().filter(|at| own.contains(at) && !elsewhere(*at));
    held.all(|at| bytes[(at - own.start) as usize] == fixture.tar[at as usize])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn what_the_kernel_has_mounted_never_changes((spans, large) in spans(), fates in prop::collection::vec(fate(), 1..40)) {
        let fixture = Fixture::new(&spans, &large);
        let regions = Model::of(&fixture).regions;
        let (mut file, mut held, mut given) = (fixture.open(), None, Vec::new());
        for fate in fates {
            match fate {
                // What is in quarantine takes nothing more.
                Fate::Keep(span) => drop(fixture.try_keep(&file, span.index(spans.len()))),
                Fate::Evict(region) => {
                    let range = region.get(&regions).clone();
                    let units = file.cut.units_of(&(range.start..range.start + 1)).unwrap();
                    file.evict(units).unwrap();
                }
                Fate::Fill => {
                    (0..spans.len()).for_each(|span| fixture.keep_original(&file, span));
                    file.mark_complete().unwrap();
                }
                Fate::Mount => {
                    held = file.hold_complete();
                    prop_assert_eq!(held.is_some(), file.is_complete());
                    given.extend(held.iter().flat_map(|held| mounted(&fixture, held)));
                }
                Fate::LetGo => drop(held.take()),
                Fate::Quarantine => file.quarantine("a lie").unwrap(),
                Fate::Reopen => {
                    drop(held.take());
                    drop(file);
                    file = fixture.open();
                }
            }
            for given in &given {
                prop_assert!(is_unchanged(&fixture, given), "{:?} of {:?}", given.1, spans);
            }
            for span in &fixture.layer.spans {
                let range = span.tar_range();
                prop_assert!(file.read(&range).is_none_or(|bytes| bytes == fixture.slice(&range)));
            }
        }
    }
}
