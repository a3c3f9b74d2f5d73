//! From wanted spans to runs, each in its turn.

use std::ops::Range;
use std::sync::Arc;

use super::Fetcher;
use super::run::Run;
use crate::class::Class;
use crate::spans;

impl Fetcher {
    /// Sees to it that those of a run of spans that are wanted are fetched, as `class` has its turn.
    pub(crate) fn dispatch(self: &Arc<Self>, keys: Range<usize>, class: Class) {
        let this = self.clone();
        tokio::spawn(async move { this.fetch_wanted(keys, class).await });
    }

    async fn fetch_wanted(self: Arc<Self>, keys: Range<usize>, class: Class) {
        // Whoever wants them may be gone, and others may have taken them along, by the time it is their turn.
        while let Some(first) = self.flights.first_wanted(keys.clone(), class) {
            if class.stands_back() {
                self.node.pool.urgency.quiet().await;
            }
            let request = spans::one_request(&self.layer, &(first..keys.end));
            let bytes = spans::blob_range(&self.layer, &request).map_or(0, |range| range.end - range.start);
            // A host that rests is nothing to wait for: whom else to ask is for the run to see.
            let mut passage = self.lane().enter(class, bytes).await.ok();
            // Neither does a run pass over what is here: that would be fetched again.
            let fits = |first, last, joint: (usize, usize)| {
                let mut between = joint.0 + 1..joint.1;
                spans::fit(&self.layer, first, last, joint) && between.all(|at| !self.is_local(at))
            };
            let run = Run::new(&self.layer, self.flights.take(first, class, fits));
            if run.is_empty() {
                continue;
            }
            if let Some(passage) = &mut passage {
                passage.expect(run.bytes());
            }
            if self.flights.first_wanted(keys.clone(), class).is_some() {
                self.dispatch(keys, class);
            }
            return self.fetch(run, passage).await;
        }
    }
}
