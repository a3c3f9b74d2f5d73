//! Loading: the pack's stream, from its first byte to the shelf.
//!
//! The request goes out before the launch index is here, for both come from the same artifact; nothing is decoded before
//! the two were compared. The stream has a turn in its host's lane as *boot*. While a reader waits for something else it is left
//! standing for a moment, so that TCP gives him the line, but never while one waits for the pack.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use jaunt_formats::Digest;
use jaunt_formats::boot::BootPack;
use jaunt_formats::launch::LaunchLayer;
use tokio::time::timeout;

use super::shelf::Shelf;
use super::{Boot, LoadError, Loaded, NamedPack};
use crate::class::Class;
use crate::layers::Layers;
use crate::source::{ByteStream, Source};
use crate::store::LargeFiles;
use crate::verify::{FrameError, verify_frame};

/// How long readers of other things are left the line before the stream goes on all the same.
const STAND_BACK: Duration = Duration::from_secs(1);

/// The launch index that a pack must be of.
pub struct Expected {
    /// Digest of its blob.
    pub index: Digest,
    /// Its layers, and what of each is large.
    pub layers: Vec<(LaunchLayer, LargeFiles)>,
}

/// The stream, with what has come of it and is not used yet.
struct Incoming<'l, P> {
    stream: ByteStream,
    named: NamedPack,
    layers: &'l Layers,
    piece: Bytes,
    received: u64,
    /// Notes that bytes came; how many fill the line.
    delivered: P,
}

impl Boot {
    /// Loads a pack from `source` onto a shelf at `path`, once `expected` says what it must be of; `None` from that ends it.
    /// Readers are served from its first frame on.
    ///
    /// # Errors
    /// It cannot be had, or is not what it should be. What of it has come and was verified stays.
    pub async fn load(
        &self,
        named: NamedPack,
        source: Arc<dyn Source>,
        layers: &Layers,
        path: &Path,
        expected: impl Future<Output = Option<Expected>>,
    ) -> Result<Loaded, LoadError> {
        let step = layers.trace().step("pack", || named.digest.to_string());
        let loaded = self.stream(named, &*source, layers, path, expected).await;
        drop(step);
        self.progress.end();
        // Its file may have been made after that.
        if self.is_distrusted() {
            let _ = std::fs::remove_file(path);
        }
        if loaded.is_err() {
            layers.metrics().boot_failures.inc();
        }
        loaded
    }

    async fn stream(
        &self,
        named: NamedPack,
        source: &dyn Source,
        layers: &Layers,
        path: &Path,
        expected: impl Future<Output = Option<Expected>>,
    ) -> Result<Loaded, LoadError> {
        let node = layers.node();
        let lane = node.pool.lane(source.host());
        let mut passage = lane.enter(Class::Boot, named.len).await.map_err(|_| LoadError::Resting)?;
        node.metrics.fetches.inc();
        let delivered = |bytes| {
            passage.delivered(bytes);
            lane.window()
        };
        let stream = source.fetch(named.digest, 0..named.len);
        let mut incoming = Incoming { stream, named, layers, piece: Bytes::new(), received: 0, delivered };
        let table = incoming.take(named.table.len(), self).await?;
        let pack = named.table.open(&table)?;
        if pack.blob_len() != named.len {
            let (digest, declared, actual) = (named.digest, named.len, pack.blob_len());
            return Err(LoadError::Length { digest, declared, actual });
        }
        let expected = expected.await.ok_or(LoadError::Stopping)?;
        let launched: Vec<LaunchLayer> = expected.layers.iter().map(|(layer, _)| layer.clone()).collect();
        pack.check(expected.index, &launched)?;
        if 2 * local_bytes(layers, &pack, &expected) >= pack.content_len() {
            return Ok(Loaded::NotNeeded);
        }
        let shelf = Shelf::create(path, &table, pack, named.learnt).map_err(LoadError::Keep)?;
        let shelf = self.shelf.get_or_init(|| Arc::new(shelf));
        self.progress.landed();
        self.frames(shelf, &mut incoming).await.map(|()| Loaded::Whole)
    }

    /// Takes frame after frame; what has come and is right stays, whatever becomes of the others.
    async fn frames<P: FnMut(u64) -> u64>(
        &self,
        shelf: &Arc<Shelf>,
        incoming: &mut Incoming<'_, P>,
    ) -> Result<(), LoadError> {
        let mut landing = Landing { digest: incoming.named.digest, pending: FuturesUnordered::new() };
        let received = self.receive(shelf, incoming, &mut landing).await;
        let landed = landing.all().await;
        received.and(landed)
    }

    /// Each frame is verified, decoded and shelved on a thread of its own while the next ones come.
    async fn receive<P: FnMut(u64) -> u64>(
        &self,
        shelf: &Arc<Shelf>,
        incoming: &mut Incoming<'_, P>,
        landing: &mut Landing,
    ) -> Result<(), LoadError> {
        let node = incoming.layers.node().clone();
        for (at, frame) in shelf.pack().frames.iter().enumerate() {
            let len = frame.blob.end - frame.blob.start;
            let memory = node.pool.hold(Class::Boot, len + u64::from(frame.content_len));
            let mut memory = std::pin::pin!(memory);
            let held = loop {
                tokio::select! {
                    held = &mut memory => break held.ok_or(LoadError::Stopping)?,
                    Some((at, shelved)) = landing.pending.next() => landing.land(at, shelved)?,
                }
            };
            let bytes = incoming.take(usize::try_from(len).unwrap_or(usize::MAX), self).await?;
            let class = if self.progress.is_awaited() { Class::Demand } else { Class::Boot };
            let decoder = node.pool.decoder(class).await.ok_or(LoadError::Stopping)?;
            let trace = incoming.layers.trace().clone();
            let (shelf, progress, metrics) = (shelf.clone(), self.progress.clone(), node.metrics.clone());
            let shelving = tokio::task::spawn_blocking(move || {
                let _step = trace.step("frame", || at.to_string());
                let frame = &shelf.pack().frames[at];
                let shelved = verify_frame(frame, &bytes).map_err(NotShelved::Frame);
                let shelved = shelved.and_then(|content| shelf.put(at, &content).map_err(NotShelved::Keep));
                progress.landed();
                drop((decoder, held));
                metrics.boot_content_bytes.inc_by(frame.content_len.into());
                shelved
            });
            landing.pending.push(async move { (at, shelving.await.ok()) }.boxed());
            while let Some(Some((at, shelved))) = landing.pending.next().now_or_never() {
                landing.land(at, shelved)?;
            }
        }
        Ok(())
    }
}

/// A frame's number, and whether it is on the shelf; `None` while the process stops.
type Shelved = (usize, Option<Result<(), NotShelved>>);

/// Why a frame that came is not on the shelf.
enum NotShelved {
    Frame(FrameError),
    Keep(io::Error),
}

/// Frames that have come, on their way to the shelf.
struct Landing {
    digest: Digest,
    pending: FuturesUnordered<BoxFuture<'static, Shelved>>,
}

impl Landing {
    fn land(&self, at: usize, shelved: Option<Result<(), NotShelved>>) -> Result<(), LoadError> {
        shelved.ok_or(LoadError::Stopping)?.map_err(|why| match why {
            NotShelved::Frame(source) => LoadError::Frame { digest: self.digest, at, source },
            NotShelved::Keep(source) => LoadError::Keep(source),
        })
    }

    async fn all(&mut self) -> Result<(), LoadError> {
        let mut landed = Ok(());
        while let Some((at, shelved)) = self.pending.next().await {
            landed = landed.and(self.land(at, shelved));
        }
        landed
    }
}

impl<P: FnMut(u64) -> u64> Incoming<'_, P> {
    /// The next `len` bytes.
    async fn take(&mut self, len: usize, boot: &Boot) -> Result<Bytes, LoadError> {
        let mut bytes = BytesMut::new();
        while bytes.len() < len {
            if self.piece.is_empty() {
                self.piece = self.next(boot).await?;
            }
            let wanted = (len - bytes.len()).min(self.piece.len());
            if bytes.is_empty() && wanted == len {
                return Ok(self.piece.split_to(len));
            }
            bytes.extend_from_slice(self.piece.chunk().get(..wanted).unwrap_or_default());
            self.piece.advance(wanted);
        }
        Ok(bytes.freeze())
    }

    async fn next(&mut self, boot: &Boot) -> Result<Bytes, LoadError> {
        let urgency = &self.layers.node().pool.urgency;
        if !boot.progress.is_awaited() {
            let _ = timeout(STAND_BACK, async {
                loop {
                    // Before it is asked: who comes in between is not missed.
                    let changed = boot.progress.changed();
                    if urgency.is_quiet() || boot.progress.is_awaited() {
                        break;
                    }
                    tokio::select! {
                        () = urgency.quiet() => {}
                        () = changed => {}
                    }
                }
            })
            .await;
        }
        let Some(piece) = self.stream.next().await.transpose()? else {
            let NamedPack { digest, len, .. } = self.named;
            return Err(LoadError::Short { digest, received: self.received, len });
        };
        self.received += piece.len() as u64;
        let metrics = self.layers.metrics();
        metrics.fetched_bytes.inc_by(piece.len() as u64);
        metrics.boot_fetched_bytes.inc_by(piece.len() as u64);
        let window = (self.delivered)(piece.len() as u64);
        boot.progress.received(self.received, window);
        Ok(piece)
    }
}

/// Bytes of a pack's content that layers have already.
fn local_bytes(layers: &Layers, pack: &BootPack, expected: &Expected) -> u64 {
    let files: Vec<_> = expected
        .layers
        .iter()
        .map(|(layer, large)| {
            let any = layers.store().present_bytes(layer, large) > 0;
            any.then(|| layers.store().layer(layer, large))
        })
        .collect();
    let is_local = |extent: &&jaunt_formats::boot::Extent| {
        let file = files.get(usize::from(extent.layer)).and_then(Option::as_ref);
        file.is_some_and(|file| file.has(&extent.tar_range()))
    };
    pack.extents.iter().filter(is_local).map(|extent| u64::from(extent.len)).sum()
}
