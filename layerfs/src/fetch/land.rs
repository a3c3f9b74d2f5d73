//! Landing: a span's bytes are verified, decoded, kept, and handed to those who wait.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::memory::Held;
use super::pool::Decoder;
use super::run::Run;
use super::{Fetcher, Landed, Outcome};
use crate::class::Class;
use crate::read_error::{ReadError, ReadErrors};
use crate::single_flight::Ticket;
use crate::source::{Source, Trouble};
use crate::store::{LayerFile, is_refused};
use crate::trouble_log::Say;
use crate::verify::{TarBytes, VerifyError, verify};

/// How often a span that arrives wrong is fetched again: once more from every source, and so often at most.
const REFETCHES: usize = 3;

impl Fetcher {
    /// Verifies, decodes and keeps one span, on a thread of its own: half a mebibyte takes a millisecond. If its bytes
    /// are wrong, it is fetched again by itself: `wrong` says how often they have been.
    pub(super) fn land(
        self: Arc<Self>,
        ticket: Ticket<Outcome>,
        bytes: Bytes,
        source: Arc<dyn Source>,
        wrong: usize,
        holds: (Decoder, Option<Arc<Held>>),
    ) {
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let span = &self.layer.spans[ticket.key()];
            let begun = Instant::now();
            let verified = verify(span, self.layer.scope, &bytes);
            drop(bytes);
            if let Ok(verified) = &verified {
                self.node.metrics.decode_seconds.observe(begun.elapsed().as_secs_f64());
                self.node.metrics.decoded_bytes.inc_by(verified.bytes().len() as u64);
            }
            let outcome = verified.map(|verified| self.keep(&ticket, verified, LayerFile::keep));
            drop(holds);
            // Asked only now: the store keeps nothing any more once it says so.
            if let (Ok(_), Some(why)) = (&outcome, self.file().quarantined()) {
                // It was on its way when the whole layer was found out.
                let error = ReadError::Quarantined { diff_id: self.layer.diff_id.0, why };
                runtime.spawn(instead(self, ticket, error.into()));
                return;
            }
            match outcome {
                Ok(landed) => {
                    self.sources.succeeded(&*source, &self.layer.converted.digest);
                    let _ = self.node.wrong.succeeded(&(self.layer.diff_id.0, ticket.key()), Instant::now());
                    ticket.complete(Ok(landed));
                }
                Err(error) => {
                    let error = self.wrong(&ticket, &*source, error);
                    if wrong < self.sources.len().min(REFETCHES) {
                        runtime.spawn(again(self, ticket, wrong + 1));
                    } else {
                        runtime.spawn(instead(self, ticket, error));
                    }
                }
            }
        });
    }

    pub(super) fn keep(
        &self,
        ticket: &Ticket<Outcome>,
        verified: TarBytes,
        keep: impl Fn(&LayerFile, &TarBytes) -> io::Result<()>,
    ) -> Landed {
        let kept = keep(self.file(), &verified);
        if !kept.as_ref().is_err_and(is_refused) {
            self.tell_kept(&kept);
        }
        if kept.is_err() {
            // A full disk costs a fetch the next time; it must not cost the reader who waits now.
            return Landed::Bytes(verified, None);
        }
        // Who does not read has no use for bytes; a reader who joins later finds them in the store.
        if self.flights.class_of([ticket]) != Some(Class::Demand) {
            return Landed::Kept;
        }
        match self.node.pool.lend(verified.bytes().len() as u64) {
            Some(lent) => Landed::Bytes(verified, Some(Arc::new(lent))),
            None => Landed::Kept,
        }
    }

    fn wrong(&self, ticket: &Ticket<Outcome>, source: &dyn Source, error: VerifyError) -> ReadErrors {
        let (diff_id, blob) = (self.layer.diff_id.0, self.layer.converted.digest);
        self.node.metrics.wrong_spans.inc();
        self.node.metrics.note_failure(source.host(), Trouble::Wrong.name());
        self.sources.failed(source, &blob, Trouble::Wrong);
        source.gave_wrong(&blob);
        let (place, span) = (source.name().to_owned(), Box::new(self.layer.spans[ticket.key()]));
        let error = ReadError::Wrong { diff_id, blob, place, span, source: error };
        match self.node.wrong.failed((diff_id, ticket.key()), Instant::now()) {
            Some(Say::GoesOn { failing, failures }) => {
                tracing::warn!(%error, failing, failures, "spans still arrive with wrong bytes");
            }
            Some(_) => tracing::warn!(%error, "wrong bytes"),
            None => tracing::debug!(%error, "wrong bytes"),
        }
        ReadErrors::from(error)
    }

    /// Tells when a layer cannot be kept, and when it can again.
    fn tell_kept(&self, kept: &io::Result<()>) {
        let (diff_id, now) = (self.layer.diff_id.0, Instant::now());
        match kept {
            Ok(()) => {
                if let Some(Say::Recovered { failures, .. }) = self.node.unkept.succeeded(&diff_id, now) {
                    tracing::info!(%diff_id, failures, "spans of a layer can be kept again");
                }
            }
            Err(error) => match self.node.unkept.failed(diff_id, now) {
                Some(Say::GoesOn { failing, failures }) => {
                    tracing::warn!(%error, layers = failing, failures, "spans still cannot be kept");
                }
                Some(_) => {
                    tracing::warn!(%diff_id, %error, "spans of a layer cannot be kept; they are served from memory");
                }
                None => {}
            },
        }
    }
}

/// Lands a span from the original that arrives wrong from everywhere.
async fn instead(fetcher: Arc<Fetcher>, ticket: Ticket<Outcome>, error: ReadErrors) {
    let mut run = Run::new(&fetcher.layer, vec![ticket]);
    if let Err(none) = fetcher.land_original(&mut run, &error).await {
        run.fail(&none.error);
    }
}

/// Fetches a span that arrived wrong once more. (Boxed: it leads back to `land`.)
fn again(fetcher: Arc<Fetcher>, ticket: Ticket<Outcome>, wrong: usize) -> BoxFuture<'static, ()> {
    let mut run = Run::new(&fetcher.layer, vec![ticket]);
    run.wrong = wrong;
    Box::pin(fetcher.fetch(run, None))
}
