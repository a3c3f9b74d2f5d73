//! What a power cut leaves.
//!
//! The disk is taken at its worst: each page of each file may be as it was at any moment since the file was last
//! synced, and each name as it was at any moment since its directory was.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::store::disk::Event;
use crate::store::disk::tests::listen;

/// What there was at one moment, and what was synced then.
struct Moment {
    files: BTreeMap<PathBuf, Vec<u8>>,
    synced: Option<PathBuf>,
}

/// All that happened to a layer, and a power cut at some moment of it.
#[derive(Default)]
struct Journal(Vec<Moment>);

impl Journal {
    /// Notes every moment in which this thread syncs or renames something, until the guard goes.
    fn listen(fixture: &Rc<Fixture>) -> Rc<RefCell<Self>> {
        let journal = Rc::new(RefCell::new(Self::default()));
        let (fixture, noting) = (fixture.clone(), journal.clone());
        listen(Some(Box::new(move |event, path| {
            noting.borrow_mut().note(&fixture, (event == Event::Synced).then_some(path));
        })));
        journal
    }

    fn note(&mut self, fixture: &Fixture, synced: Option<&Path>) {
        self.0.push(Moment { files: fixture.on_disk(), synced: synced.map(Path::to_owned) });
    }

    /// Leaves on the disk what a power cut at the end of a journal may.
    fn cut_power(&self, now: &Fixture, mut chance: impl FnMut(usize) -> usize) {
        let mut paths: Vec<&PathBuf> = self.0.iter().flat_map(|moment| moment.files.keys()).collect();
        paths.sort();
        paths.dedup();
        now.on_disk().keys().for_each(|path| fs::remove_file(path).unwrap());
        for path in paths {
            let named = &self.since_sync(path.parent().unwrap());
            let exists = named[chance(named.len())].files.contains_key(path);
            let written = self.since_sync(path);
            let len = written.iter().filter_map(|then| then.files.get(path)).map(Vec::len).max().unwrap_or(0);
            let mut left = vec![0; len];
            for (at, page) in left.chunks_mut(4096).enumerate() {
                let then = written[chance(written.len())].files.get(path);
                let then = then.and_then(|bytes| bytes.get(at * 4096..)).unwrap_or_default();
                let len = then.len().min(page.len());
                page[..len].copy_from_slice(&then[..len]);
            }
            if exists {
                fs::write(path, left).unwrap();
            }
        }
    }

    fn since_sync(&self, path: &Path) -> &[Moment] {
        let synced = |moment: &Moment| moment.synced.as_deref() == Some(path);
        &self.0[self.0.iter().rposition(synced).unwrap_or(0)..]
    }
}

#[derive(Clone, Debug)]
enum Op {
    Keep(prop::sample::Index),
    KeepAll,
    Complete,
    Evict(prop::sample::Index),
    Quarantine,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<prop::sample::Index>().prop_map(Op::Keep),
        2 => Just(Op::KeepAll),
        2 => Just(Op::Complete),
        2 => any::<prop::sample::Index>().prop_map(Op::Evict),
        1 => Just(Op::Quarantine),
    ]
}

/// Anything, or what it takes for a mark to outlive what it stands for, if it could.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let marked = (any::<prop::sample::Index>(), prop::collection::vec(op(), 0..3))
        .prop_map(|(evicted, then)| [vec![Op::KeepAll, Op::Complete, Op::Evict(evicted)], then].concat());
    prop_oneof![prop::collection::vec(op(), 1..12), marked]
}

impl Fixture {
    /// A range of the tar as its files have it, unchecked: what the kernel would read.
    fn raw(&self, range: &Range<u64>) -> Vec<u8> {
        let files = self.on_disk();
        let byte = |at: u64| match self.large.ranges().iter().find(|large| large.contains(&at)) {
            Some(large) => {
                files[&self.place().join("large").join(large.start.to_string())][(at - large.start) as usize]
            }
            None => files[&self.place().join("data")][at as usize],
        };
        range.clone().map(byte).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// B5: After a crash of the daemon or of the machine, and over a disk that flips bits, what is read from the
    /// local store is what was verified when it came, or it is fetched again.
    #[test]
    fn whatever_a_power_cut_leaves_is_right_or_absent(
        (spans, large) in spans(),
        ops in ops(),
        end in prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)],
        chances in prop::collection::vec(any::<prop::sample::Index>(), 512),
    ) {
        let fixture = Rc::new(Fixture::new(&spans, &large));
        let file = fixture.open();
        let journal = Journal::listen(&fixture);
        let mut condemned = None;
        for op in ops {
            match op {
                Op::Keep(span) => drop(fixture.try_keep(&file, span.index(spans.len()))),
                Op::KeepAll => (0..spans.len()).for_each(|span| drop(fixture.try_keep(&file, span))),
                Op::Quarantine => {
                    file.quarantine("a lie").unwrap();
                    let len = journal.borrow().0.len();
                    condemned.get_or_insert(len);
                }
                Op::Complete => drop(file.mark_complete()),
                Op::Evict(at) => {
                    let present = file.evictable();
                    if !present.is_empty() {
                        file.evict(at.get(&present).units.clone()).unwrap();
                    }
                }
            }
            journal.borrow_mut().note(&fixture, None);
        }
        drop(file);
        listen(None);
        let mut journal = journal.borrow_mut();
        let len = journal.0.len();
        let end = end.map_or(len, |end| end.index(len) + 1);
        journal.0.truncate(end);
        let mut chances = chances.iter().cycle();
        journal.cut_power(&fixture, |of| chances.next().unwrap().index(of));

        let file = fixture.open();
        let in_quarantine = file.quarantined().is_some();
        prop_assert!(in_quarantine || condemned.is_none_or(|since| end < since), "the quarantine is forgotten");
        prop_assert!(!in_quarantine || file.present_bytes() == 0, "bytes are back out of the quarantine");
        if file.is_complete() {
            for range in fixture.units() {
                prop_assert!(fixture.raw(&range) == fixture.slice(&range), "the kernel reads wrong bytes at {range:?}");
            }
        }
        for range in fixture.units() {
            if let Some(bytes) = file.read(&range) {
                prop_assert!(bytes == fixture.slice(&range), "wrong bytes at {range:?}");
            }
        }
        // What was lost can be kept again.
        for span in 0..spans.len() {
            match in_quarantine {
                true => fixture.keep_original(&file, span),
                false => fixture.keep(&file, span),
            }
            let range = fixture.layer.spans[span].tar_range();
            prop_assert!(file.read(&range).is_some_and(|bytes| bytes == fixture.slice(&range)));
        }
        prop_assert!(file.mark_complete().is_ok());
    }
}
