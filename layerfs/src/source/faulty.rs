//! A source with faults, for tests: it drops, delays, drips, truncates, corrupts, reorders, refuses and lies, as chance
//! with a seed has it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use jaunt_formats::Digest;

use super::{ByteStream, Source, SourceError, Trouble, whole};
use crate::chance::Chance;

/// What may happen to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The server answers late.
    Delay,
    /// It refuses, or does not have it, or fails.
    Deny(Trouble),
    /// It never answers.
    Silence,
    /// It falls silent in the middle.
    Stall,
    /// The connection breaks in the middle.
    Drop,
    /// The answer ends early as if it were whole.
    Truncate,
    /// It is longer than asked for.
    Overlong,
    /// A byte now and then.
    Drip,
    /// A bit is flipped.
    Corrupt,
    /// Two pieces change places.
    Reorder,
    /// Bytes of another range of the blob.
    Lie,
}

const FAULTS: [Fault; 16] = [
    Fault::None,
    Fault::Delay,
    Fault::Deny(Trouble::Broken),
    Fault::Deny(Trouble::Busy { rest: Duration::from_secs(4) }),
    Fault::Deny(Trouble::Silent),
    Fault::Deny(Trouble::Refused),
    Fault::Deny(Trouble::Wrong),
    Fault::Deny(Trouble::Gone),
    Fault::Silence,
    Fault::Stall,
    Fault::Drop,
    Fault::Truncate,
    Fault::Overlong,
    Fault::Drip,
    Fault::Corrupt,
    Fault::Reorder,
];

/// An error of this kind.
pub(crate) fn error(blob: Digest, range: Range<u64>, trouble: Trouble) -> SourceError {
    SourceError { place: "test".to_owned(), blob, range, trouble, cause: "as told".into() }
}

/// Spoils what another source gives.
pub(crate) struct Faulty {
    name: String,
    inner: Arc<dyn Source>,
    blob_len: u64,
    chance: Mutex<Chance>,
    /// Of so many requests, one meets with no fault at least.
    one_in: u64,
}

impl Faulty {
    /// Spoils all but one in `one_in` requests for a blob of `blob_len` bytes, in the mean.
    pub(crate) fn new(
        name: &str,
        inner: Arc<dyn Source>,
        blob_len: u64,
        seed: u64,
        one_in: u64,
    ) -> Arc<Self> {
        let chance = Mutex::new(Chance(seed));
        Arc::new(Self { name: name.to_owned(), inner, blob_len, chance, one_in })
    }

    fn draw(&self, limit: u64) -> u64 {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).below(limit)
    }

    fn fault(&self) -> Fault {
        if self.draw(self.one_in) == 0 {
            return Fault::None;
        }
        match self.draw(FAULTS.len() as u64 + 1) {
            lie if lie == FAULTS.len() as u64 => Fault::Lie,
            fault => FAULTS[fault as usize],
        }
    }

    /// Bytes of `range`, honestly.
    async fn honest(self: &Arc<Self>, blob: Digest, range: Range<u64>) -> Result<Bytes, SourceError> {
        whole(&*self.inner, blob, range).await
    }

    async fn answer(
        self: Arc<Self>,
        blob: Digest,
        range: Range<u64>,
        fault: Fault,
    ) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let one = |answer| stream::iter([answer]).boxed();
        let asked = match fault {
            Fault::Lie => {
                let len = range.end - range.start;
                let start = self.draw(self.blob_len - len + 1);
                start..start + len
            }
            Fault::Overlong => range.start..(range.end + 1000).min(self.blob_len),
            _ => range.clone(),
        };
        let bytes = match self.honest(blob, asked).await {
            Ok(bytes) => bytes,
            Err(error) => return one(Err(error)),
        };
        let at = self.draw(bytes.len() as u64) as usize;
        match fault {
            Fault::None | Fault::Lie | Fault::Overlong => pieces(&bytes, 10_000),
            Fault::Delay => {
                tokio::time::sleep(Duration::from_millis(self.draw(20_000))).await;
                pieces(&bytes, 10_000)
            }
            Fault::Deny(trouble) => one(Err(error(blob, range, trouble))),
            Fault::Silence => stream::pending().boxed(),
            Fault::Stall => pieces(&bytes.slice(..at), 10_000).chain(stream::pending()).boxed(),
            Fault::Drop => {
                let broke = stream::iter([Err(error(blob, range, Trouble::Broken))]);
                pieces(&bytes.slice(..at), 10_000).chain(broke).boxed()
            }
            Fault::Truncate => pieces(&bytes.slice(..at), 10_000),
            Fault::Drip => {
                let drops = stream::unfold(bytes, |mut rest| async move {
                    tokio::time::sleep(Duration::from_millis(900)).await;
                    let len = rest.len().min(10);
                    (len > 0).then(|| (Ok(rest.split_to(len)), rest))
                });
                drops.boxed()
            }
            Fault::Corrupt => {
                let mut spoilt = BytesMut::from(&bytes[..]);
                spoilt[at] ^= 1 << self.draw(8);
                pieces(&spoilt.freeze(), 10_000)
            }
            Fault::Reorder => stream::iter([bytes.slice(at..), bytes.slice(..at)].map(Ok)).boxed(),
        }
    }
}

impl Source for Arc<Faulty> {
    fn name(&self) -> &str {
        &self.name
    }

    fn host(&self) -> &str {
        &self.name
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        let (this, fault) = (self.clone(), self.fault());
        stream::once(async move { this.answer(blob, range, fault).await }).flatten().boxed()
    }
}

fn pieces(bytes: &Bytes, len: usize) -> BoxStream<'static, Result<Bytes, SourceError>> {
    let (bytes, count) = (bytes.clone(), bytes.len().div_ceil(len));
    let piece = move |at: usize| Ok(bytes.slice(at * len..((at + 1) * len).min(bytes.len())));
    stream::iter((0..count).map(piece)).boxed()
}
