//! Sends traces of starts to where their images came from, for whoever makes boot packs there (`jaunt-proxy optimize --gather`).
//!
//! ```text
//! <root>/traces/sent/<index hex>-<number>    one try to send a trace of this index; empty
//! ```
//!
//! Off unless repositories are named: what a container touches is nobody's business by default, and the node's login must be one that may
//! push. One trace is sent after the other, behind everything else; nothing is tried twice, and each image a few times only, on this node
//! in a week and by all nodes together. A repository that refuses is told of once.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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
/// How long they are: who gathers traces wants to know what has changed, also of nodes that have told of the image before.
const REMEMBERED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

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

/// How often it was tried to send a trace of an index of late, in this life and before. A try's time is its file's.
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
            let path = entry.path();
            known.extend(noted(&path)?.map(|at| (at, path)));
        }
        known.sort_unstable();
        known.truncate(known.len().saturating_sub(MAX_REMEMBERED));
        known.iter().try_for_each(|(_, path)| std::fs::remove_file(path))
    }

    /// Notes one more try; `false` where there were enough.
    fn begin(&self, index: &Digest) -> io::Result<bool> {
        for number in 0..self.limit {
            let path = self.directory.join(format!("{}-{number}", index.hex()));
            if noted(&path)?.is_none() {
                File::create_new(path)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// When a try was; `None` if there is none that is remembered any more: it is removed. One of the future was noted by a clock that has been
/// set back since: it is as of now, or it would be remembered until then.
fn noted(path: &Path) -> io::Result<Option<SystemTime>> {
    let at = match std::fs::metadata(path) {
        Ok(metadata) => metadata.modified()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let now = SystemTime::now();
    match now.duration_since(at) {
        Ok(age) if age > REMEMBERED_FOR => std::fs::remove_file(path).map(|()| None),
        Ok(_) => Ok(Some(at)),
        Err(_) => {
            File::options().write(true).open(path)?.set_modified(now)?;
            Ok(Some(now))
        }
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

    #[test]
    fn an_image_is_told_of_again_after_a_week_whatever_the_clock_did_meanwhile() {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        let dir = tempfile::tempdir().unwrap();
        let tries = Tries { directory: dir.path().join("sent"), limit: 2 };
        tries.open().unwrap();
        let index = Digest::of(b"index");
        let begin = || tries.begin(&index).unwrap();
        let paths = [0, 1].map(|number| tries.directory.join(format!("{}-{number}", index.hex())));
        let date =
            |path: &Path, at| File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
        let now = SystemTime::now();
        assert_eq!([begin(), begin(), begin()], [true, true, false]);
        date(&paths[0], now - REMEMBERED_FOR + HOUR);
        assert!(!begin(), "it was less than a week ago");
        date(&paths[0], now - REMEMBERED_FOR - HOUR);
        assert_eq!([begin(), begin()], [true, false], "the one that is long ago counts no more");

        // One of the future is as of now, and not for as long as the clock was wrong and a week.
        date(&paths[1], now + 1000 * REMEMBERED_FOR);
        assert!(!begin());
        let at = std::fs::metadata(&paths[1]).unwrap().modified().unwrap();
        assert!((now..=SystemTime::now()).contains(&at), "{at:?}");

        // Those that are long ago do not stay either, also of images that are not started any more.
        date(&paths[0], now - REMEMBERED_FOR - HOUR);
        tries.open().unwrap();
        assert_eq!(paths.each_ref().map(|path| path.exists()), [false, true]);
    }
}
