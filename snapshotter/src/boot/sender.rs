//! Sends traces of starts to where their images came from, for whoever makes boot packs there (`jaunt-proxy optimize --gather`).
//!
//! ```text
//! <root>/traces/sent/<index hex>-<number>    one try to send a trace of this index; empty
//! ```
//!
//! Off unless repositories are named: what a container touches is nobody's business by default, and the node's login must be one that may
//! push. One trace is sent after the other, behind everything else; nothing is tried twice, and each image a few times only, on this node
//! and by all nodes together. A repository that refuses is told of once.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jaunt_distribution::{Client, Error, InRepository, Repository, list_referrer};
use jaunt_formats::Digest;
use jaunt_formats::boot::{EMPTY_CONFIG, MAX_SENT_LEN, trace_manifest};
use jaunt_formats::media_type::{IMAGE_MANIFESTS, LAUNCH_TRACE, OCI_MANIFEST};
use prometheus_client::metrics::counter::Counter;
use serde_json::json;
use tokio::sync::mpsc;

use crate::config::{BootConfig, RepositoryPrefix};
use crate::fallback::error_chain;
use crate::metastore::{MetaStore, Pin};

/// Traces that wait to be sent; what more there are is not.
const WAITING: usize = 16;
/// Traces beside one image, of all nodes: as many as are merged.
const MAX_BESIDE: usize = 32;
/// Tries that are remembered.
const MAX_REMEMBERED: usize = 4096;

/// How many traces were sent, and how many could not be.
#[derive(Clone, Debug, Default)]
pub struct SendCounters {
    /// Sent.
    pub sent: Counter,
    /// Not sent.
    pub failures: Counter,
}

/// What takes traces to be sent.
#[derive(Clone, Debug)]
pub struct Sender(mpsc::Sender<(Digest, Bytes)>);

impl Sender {
    /// One that sends to the repositories that `config` names, as long as the runtime runs; `None` where it names none. It remembers its
    /// tries in `directory`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn start(
        directory: &Path,
        config: &BootConfig,
        client: &Client,
        store: MetaStore,
        counters: SendCounters,
    ) -> io::Result<Option<Self>> {
        if config.send_traces_to.is_empty() || config.sent_traces == 0 {
            return Ok(None);
        }
        let tries = Tries { directory: directory.join("sent"), limit: config.sent_traces };
        tries.open()?;
        let (sender, mut waiting) = mpsc::channel::<(Digest, Bytes)>(WAITING);
        // What a mirror lists may be old.
        let client = client.without_mirrors();
        let allowed = config.send_traces_to.clone();
        tokio::spawn(async move {
            let mut told = HashSet::new();
            while let Some((index, text)) = waiting.recv().await {
                let pins = store.pins_of(&index);
                let Some(pin) = pins.into_iter().find(|pin| may_be_told(&allowed, &pin.repository)) else {
                    continue;
                };
                let repository = pin.repository.clone();
                match tries.begin(&index) {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(error) => {
                        tracing::warn!(%error, "it cannot be noted that a trace is sent: it is not");
                        continue;
                    }
                }
                match send(&client, &pin, text).await {
                    Ok(true) => {
                        counters.sent.inc();
                        tracing::info!(image = %pin, "the trace of a start was sent");
                    }
                    Ok(false) => tracing::debug!(image = %pin, "there are traces enough beside the image"),
                    Err(error) => {
                        counters.failures.inc();
                        let why = error_chain(&error);
                        if told.insert(repository) {
                            tracing::warn!(image = %pin, why, "traces cannot be sent: their repository is not told of again");
                        } else {
                            tracing::debug!(image = %pin, why, "a trace cannot be sent");
                        }
                    }
                }
            }
        });
        Ok(Some(Self(sender)))
    }

    /// Has a trace of an index sent, if its image is one that may be. Waits for nothing.
    pub fn send(&self, index: Digest, text: String) {
        if text.len() > MAX_SENT_LEN || self.0.try_send((index, text.into())).is_err() {
            tracing::debug!(%index, "a trace is not sent: too long, or too many wait");
        }
    }
}

fn may_be_told(allowed: &[RepositoryPrefix], repository: &Repository) -> bool {
    allowed.iter().any(|prefix| prefix.includes(repository))
}

/// Leaves a trace beside an image; `false` where there are enough.
async fn send(client: &Client, pin: &Pin, text: Bytes) -> Result<bool, Error> {
    let (repository, subject) = (&pin.repository, &pin.manifest);
    if client.referrers(repository, subject, Some(LAUNCH_TRACE)).await?.len() >= MAX_BESIDE {
        return Ok(false);
    }
    let image = client.manifest(repository, &subject.to_string(), &IMAGE_MANIFESTS).await?;
    let manifest =
        Bytes::from(trace_manifest((&image.media_type, *subject, image.bytes.len() as u64), &text));
    for blob in [Bytes::from_static(EMPTY_CONFIG), text] {
        client.push_blob(repository, &Digest::of(&blob), blob).await?;
    }
    let (digest, size) = (Digest::of(&manifest), manifest.len());
    let pushed = client.push_manifest(repository, &digest.to_string(), OCI_MANIFEST, manifest).await?;
    if pushed.subject.is_none() {
        let named = json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": size, "artifactType": LAUNCH_TRACE });
        list_referrer(&InRepository { client, repository }, subject, named).await?;
    }
    Ok(true)
}

/// How often it was tried to send a trace of an index, in this life and before.
struct Tries {
    directory: PathBuf,
    limit: u64,
}

impl Tries {
    fn open(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let entries = std::fs::read_dir(&self.directory)?.collect::<io::Result<Vec<_>>>()?;
        let mut known = Vec::new();
        for entry in entries {
            known.push((entry.metadata()?.modified()?, entry.path()));
        }
        known.sort_unstable();
        known.truncate(known.len().saturating_sub(MAX_REMEMBERED));
        known.iter().try_for_each(|(_, path)| std::fs::remove_file(path))
    }

    /// Notes one more try; `false` where there were enough.
    fn begin(&self, index: &Digest) -> io::Result<bool> {
        for number in 0..self.limit {
            let path = self.directory.join(format!("{}-{number}", index.hex()));
            match OpenOptions::new().write(true).create_new(true).open(path) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_of_a_few_times_only_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let tries = || Tries { directory: dir.path().join("sent"), limit: 2 };
        tries().open().unwrap();
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let begin = |index| tries().begin(index).unwrap();
        assert_eq!([begin(&one), begin(&one), begin(&one), begin(&other)], [true, true, false, true]);
        tries().open().unwrap();
        assert_eq!([begin(&one), begin(&other), begin(&other)], [false, true, false]);
    }
}
