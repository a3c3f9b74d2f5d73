//! The places that are known to have a layer's blobs, and in which order they are asked.
//!
//! A layer is shared by images of several repositories, and only some of them may still be there. Each image that
//! uses the layer adds its own. Who answered last is asked first; who had trouble with a blob is asked for it after
//! those who had none, and who does not have it, last. Nobody is struck off: a registry may be mended, and a
//! blob pushed again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jaunt_formats::Digest;

use super::{Source, Trouble};

/// Sources of one layer.
#[derive(Default)]
pub struct SourceSet(Mutex<Vec<Known>>);

struct Known {
    source: Arc<dyn Source>,
    /// The blobs it had trouble with when it was last asked for them.
    troubles: Vec<(Digest, Trouble)>,
}

impl Known {
    fn trouble(&self, blob: &Digest) -> Option<Trouble> {
        self.troubles.iter().find(|(of, _)| of == blob).map(|(_, trouble)| *trouble)
    }
}

impl SourceSet {
    /// Adds a source that has come to be known, unless one of its name is known already.
    pub fn learn(&self, source: &Arc<dyn Source>) {
        let mut known = self.lock();
        if !known.iter().any(|have| have.source.name() == source.name()) {
            known.push(Known { source: source.clone(), troubles: Vec::new() });
        }
    }

    /// All of them, in the order in which they are to be asked for `blob`.
    pub fn order(&self, blob: &Digest) -> Vec<Arc<dyn Source>> {
        let known = self.lock();
        let mut order: Vec<&Known> = known.iter().collect();
        order.sort_by_key(|known| known.trouble(blob));
        order.into_iter().map(|known| known.source.clone()).collect()
    }

    /// Notes that a source gave bytes of `blob` that were wanted.
    pub fn succeeded(&self, source: &dyn Source, blob: &Digest) {
        let mut known = self.lock();
        let Some(at) = known.iter().position(|have| have.source.name() == source.name()) else { return };
        known[at].troubles.retain(|(of, _)| of != blob);
        known[..=at].rotate_right(1);
    }

    /// Notes that it did not.
    pub fn failed(&self, source: &dyn Source, blob: &Digest, trouble: Trouble) {
        let mut known = self.lock();
        let known = known.iter_mut().find(|have| have.source.name() == source.name());
        if let Some(known) = known {
            known.troubles.retain(|(of, _)| of != blob);
            known.troubles.push((*blob, trouble));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        // Every change leaves a list of sources wherever a panic strikes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemorySource;
    use super::*;

    fn source(name: &str) -> Arc<dyn Source> {
        Arc::new(MemorySource::named(name, []))
    }

    fn names(set: &SourceSet, blob: &Digest) -> Vec<String> {
        set.order(blob).iter().map(|source| source.name().to_owned()).collect()
    }

    #[test]
    fn a_source_is_learnt_once_by_its_name() {
        let set = SourceSet::default();
        for name in ["a", "b", "a"] {
            set.learn(&source(name));
        }
        assert_eq!(names(&set, &Digest::of(b"")), ["a", "b"]);
    }

    #[test]
    fn who_has_trouble_is_asked_later_and_who_answers_first() {
        let set = SourceSet::default();
        let (blob, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let all: Vec<Arc<dyn Source>> = ["gone", "refused", "silent", "well"].map(source).into();
        all.iter().for_each(|source| set.learn(source));
        for (source, trouble) in all.iter().zip([Trouble::Gone, Trouble::Refused, Trouble::Silent]) {
            set.failed(&**source, &blob, trouble);
        }
        assert_eq!(names(&set, &blob), ["well", "silent", "refused", "gone"]);
        assert_eq!(
            names(&set, &other),
            ["gone", "refused", "silent", "well"],
            "of another blob nothing is said"
        );
        set.succeeded(&*all[0], &blob);
        assert_eq!(names(&set, &blob), ["gone", "well", "silent", "refused"]);
    }
}
