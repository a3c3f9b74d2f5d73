//! The list of referrers that pushers keep where a registry has no API for them.
//!
//! Spec: OCI distribution-spec 1.1, "Referrers tag schema". The list is changed, not made anew: what others
//! have listed stays as it is.

use std::time::Duration;

use bytes::Bytes;
use jaunt_formats::Digest;
use jaunt_formats::media_type::OCI_INDEX;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::in_repository::InRepository;
use crate::manifest::Manifest;
use crate::referrers::referrers_tag;
use crate::target::Target;

/// How often a list is written before another pusher is believed to undo it on purpose.
const TRIES: u32 = 5;
/// The pause after the first collision; later ones are longer, and each pusher's is its own.
const PAUSE: Duration = Duration::from_millis(50);

/// Where lists are kept.
pub trait ReferrerLists: Sync {
    /// Why one cannot be read or written.
    type Error: Send;

    /// The list with this tag, if there is one.
    fn read(&self, tag: &str) -> impl Future<Output = Result<Option<Manifest>, Self::Error>> + Send;

    /// Has the tag name another list, unless it names something else than expected meanwhile: who reads it back sees that.
    fn write(
        &self,
        tag: &str,
        expected: Option<Digest>,
        list: Bytes,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Deletes a list; `false` where that is not allowed.
    fn delete(&self, list: &Digest) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// What the tag names is no list.
    fn malformed(&self, tag: &str) -> Self::Error;
}

/// Adds a manifest, by its descriptor, to its subject's list.
///
/// Of two pushers that read the same list the second drops what the first has added, where the registry knows no
/// conditional push. What was written is therefore read back, and written again while anything that has been seen
/// in the list is missing from it.
///
/// # Errors
/// The list cannot be read or written, or is none.
pub async fn list_referrer<L: ReferrerLists>(
    lists: &L,
    subject: &Digest,
    referrer: Value,
) -> Result<(), L::Error> {
    change(lists, &referrers_tag(subject), vec![referrer], None).await.map(drop)
}

/// Takes a manifest off its subject's list; whether it was there. A list that would be empty is deleted, if
/// that is allowed.
///
/// # Errors
/// As [`list_referrer`].
pub async fn unlist_referrer<L: ReferrerLists>(
    lists: &L,
    subject: &Digest,
    gone: &Digest,
) -> Result<bool, L::Error> {
    change(lists, &referrers_tag(subject), Vec::new(), Some(gone)).await
}

/// Writes a list until it has what is wanted, and what should be gone no more; whether that was there.
async fn change<L: ReferrerLists>(
    lists: &L,
    tag: &str,
    mut wanted: Vec<Value>,
    gone: Option<&Digest>,
) -> Result<bool, L::Error> {
    let (gone, mut was_there) = (gone.map(|gone| Value::from(gone.to_string())), false);
    for turn in 0..=TRIES {
        // The first reading back comes at once: mostly, nobody else was there.
        if let Some(collisions) = turn.checked_sub(1).filter(|&collisions| collisions > 0) {
            tracing::debug!(%tag, collisions, "another pusher writes the list of referrers");
            tokio::time::sleep(PAUSE * collisions + PAUSE * (std::process::id() % 8) / 8).await;
        }
        let found = lists.read(tag).await?;
        let now = found.as_ref().map(|found| found.digest);
        let mut list = List::of(found.as_ref()).ok_or_else(|| lists.malformed(tag))?;
        let listed = list.manifests.len();
        list.manifests.retain(|one| one.get("digest").is_none() || one.get("digest") != gone.as_ref());
        let is_there = list.manifests.len() < listed;
        wanted.retain(|one| !list.manifests.iter().any(|listed| listed.get("digest") == one.get("digest")));
        if wanted.is_empty() && !is_there {
            return Ok(was_there);
        }
        was_there |= is_there;
        if turn == TRIES {
            break;
        }
        list.manifests.append(&mut wanted);
        match now {
            Some(now) if list.manifests.is_empty() && lists.delete(&now).await? => return Ok(was_there),
            _ => {}
        }
        // Who takes something off the list answers for that alone: others may take off more meanwhile.
        if gone.is_none() {
            wanted.clone_from(&list.manifests);
        }
        lists.write(tag, now, list.encode()).await?;
    }
    tracing::warn!(%tag, "other pushers keep changing the list of referrers: what was written is lost again");
    Ok(was_there)
}

/// The document, of which `manifests` is known to be an array.
struct List {
    document: Map<String, Value>,
    manifests: Vec<Value>,
}

impl List {
    /// The list there is, or an empty one; `None` of what is no list.
    fn of(found: Option<&Manifest>) -> Option<Self> {
        let document = match found {
            Some(found) => serde_json::from_slice(&found.bytes).ok()?,
            None => json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }),
        };
        let Value::Object(mut document) = document else { return None };
        match document.remove("manifests") {
            Some(Value::Array(manifests)) => Some(Self { document, manifests }),
            _ => None,
        }
    }

    fn encode(mut self) -> Bytes {
        self.document.insert("manifests".to_owned(), self.manifests.into());
        Value::from(self.document).to_string().into()
    }
}

/// The lists of a repository. The client is not to be one that asks mirrors: a list of theirs may be old.
impl ReferrerLists for InRepository<'_> {
    type Error = Error;

    async fn read(&self, tag: &str) -> Result<Option<Manifest>, Error> {
        self.client.manifest_if_exists(self.repository, tag, &[OCI_INDEX]).await
    }

    async fn write(&self, tag: &str, expected: Option<Digest>, list: Bytes) -> Result<(), Error> {
        self.client.move_tag(self.repository, tag, expected, OCI_INDEX, list).await.map(drop)
    }

    async fn delete(&self, list: &Digest) -> Result<bool, Error> {
        match self.client.delete_manifest(self.repository, list).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_refusal() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn malformed(&self, tag: &str) -> Error {
        let target = Target::manifest(self.repository, tag);
        Error::malformed(&target, "is no list of referrers")
    }
}
