//! Where the files of a predecessor are now that are not under their names any more: found by the digests of their content, which
//! converted layers have in their tables of contents.
//!
//! Only such tables are read as can tell something: none where the files lie in layers that both images have. A layer without one tells
//! nothing; its files are known by path alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStream, TryStreamExt as _, stream};
use jaunt_formats::Digest;
use jaunt_formats::entry::EntryPath;
use jaunt_formats::launch::{FileContent, LaunchIndex};
use jaunt_formats::zstd_chunked::{Annotations, content_digests};

use crate::boot::merge::find;
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::place::Place;

/// Bytes of a compressed table; ten million files have less.
const MAX_TABLE: u64 = 64 << 20;
/// Tables that are fetched at the same time.
const PARALLEL: usize = 4;
/// Names of the same content that one is picked from.
const MAX_NAMES: usize = 64;

/// An image whose files are looked for.
#[derive(Clone, Copy)]
pub struct Side<'s> {
    /// Where it is.
    pub place: &'s Place,
    /// Its launch index, which was checked.
    pub index: &'s LaunchIndex<Vec<u8>>,
    /// Its converted layers, as its artifact describes them.
    pub layers: &'s [Descriptor],
}

/// Of some files of `old`: those that `new` has under another name and not under the same, with that name.
pub async fn moved(
    old: Side<'_>,
    new: Side<'_>,
    paths: HashSet<&str>,
) -> Result<HashMap<String, String>, Error> {
    let strays: HashMap<&str, FileContent> =
        paths.into_iter().filter_map(|path| Some((path, stray(old, new, path)?))).collect();
    let layers: BTreeSet<u16> = strays.values().map(|content| content.layer).collect();
    let sought =
        Sought { paths: strays.keys().map(|path| (*path).to_owned()).collect(), ..Sought::default() };
    let mut known = HashMap::<String, Digest>::new();
    let read = in_layers(old, layers, Arc::new(sought));
    let mut read = pin!(read);
    while let Some(files) = read.try_next().await? {
        let is_it = |file: &Listed| {
            let stray = strays.get(file.path.as_str());
            stray.is_some_and(|content| (content.layer, content.size) == (file.layer, file.len))
        };
        known.extend(files.into_iter().filter(is_it).map(|file| (file.path, file.digest)));
    }
    if known.is_empty() {
        return Ok(HashMap::new());
    }
    let names = names(new, &known).await?;
    let found = known.into_iter().filter_map(|(path, digest)| {
        let names = names.get(&digest)?;
        let is_beside = |name: &&String| last(name) == last(&path);
        let is_in_place = names.contains(&path);
        let name = names.iter().find(is_beside).or_else(|| names.first()).filter(|_| !is_in_place)?;
        Some((path, name.clone()))
    });
    Ok(found.collect())
}

/// A file of `old` that is not in the same layer at the same place in `new`.
fn stray(old: Side<'_>, new: Side<'_>, path: &str) -> Option<FileContent> {
    let content = find(old.index, path)?;
    let diff_id = |of: Side<'_>, content: &FileContent| of.index.layers()[usize::from(content.layer)].diff_id;
    let is_same =
        |now: &FileContent| diff_id(old, &content) == diff_id(new, now) && now.extents == content.extents;
    (!find(new.index, path).is_some_and(|now| is_same(&now))).then_some(content)
}

/// By digest, under which names `new` shows some content; each list in the order of the layers.
async fn names(
    new: Side<'_>,
    known: &HashMap<String, Digest>,
) -> Result<HashMap<Digest, Vec<String>>, Error> {
    let sought =
        Sought { paths: known.keys().cloned().collect(), digests: known.values().copied().collect() };
    let sought = Arc::new(sought);
    let count = u16::try_from(new.index.layers().len()).unwrap_or(u16::MAX);
    let mut names: HashMap<Digest, Vec<String>> = HashMap::new();
    let mut read = pin!(in_layers(new, (0..count).collect(), Arc::clone(&sought)));
    while let Some(files) = read.try_next().await? {
        for file in files.into_iter().filter(|file| sought.digests.contains(&file.digest)) {
            let names = names.entry(file.digest).or_default();
            let is_shown = || {
                find(new.index, &file.path)
                    .is_some_and(|content| (content.layer, content.size) == (file.layer, file.len))
            };
            if (names.len() < MAX_NAMES || sought.paths.contains(&file.path)) && is_shown() {
                names.push(file.path);
            }
        }
    }
    Ok(names)
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A file as its layer's table of contents has it.
struct Listed {
    layer: u16,
    path: String,
    len: u64,
    digest: Digest,
}

/// What is looked for in tables.
#[derive(Default)]
struct Sought {
    /// Files by path, whatever they hold.
    paths: HashSet<String>,
    /// Files by what they hold, some of each.
    digests: HashSet<Digest>,
}

/// Picks from one table what is looked for: no more than that is kept, however much the table lists.
#[derive(Default)]
struct Sieve {
    seen: HashSet<String>,
    of_digest: HashMap<Digest, usize>,
}

impl Sieve {
    fn takes(&mut self, sought: &Sought, path: &str, digest: &Digest) -> bool {
        if sought.paths.contains(path) && self.seen.insert(path.to_owned()) {
            return true;
        }
        if !sought.digests.contains(digest) {
            return false;
        }
        let count = self.of_digest.entry(*digest).or_default();
        *count += 1;
        *count <= MAX_NAMES
    }
}

/// Of some layers, one after the other, the files that are looked for.
fn in_layers(
    side: Side<'_>,
    layers: BTreeSet<u16>,
    sought: Arc<Sought>,
) -> impl TryStream<Ok = Vec<Listed>, Error = Error> {
    let read = layers.into_iter().map(move |number| in_layer(side, number, Arc::clone(&sought)));
    stream::iter(read).buffered(PARALLEL)
}

/// Those of a layer; none, where it has no table that could be read.
async fn in_layer(side: Side<'_>, number: u16, sought: Arc<Sought>) -> Result<Vec<Listed>, Error> {
    let blob = side.index.layers()[usize::from(number)].converted;
    let described = side.layers.iter().find(|layer| layer.digest == blob.digest);
    let annotations = described.and_then(|layer| layer.annotations.clone()).unwrap_or_default();
    let Ok(Some(annotations)) = Annotations::parse(&annotations.into_iter().collect()) else {
        return Ok(Vec::new());
    };
    let (start, len) = (annotations.toc.offset.0, annotations.toc.len);
    let Some(end) = start.checked_add(len).filter(|end| len <= MAX_TABLE && *end <= blob.len) else {
        return Ok(Vec::new());
    };
    let table = match side.place.blob_range(&blob.digest, start..end).await {
        Err(error) if error.is_not_found() => {
            tracing::warn!(layer = %blob.digest, "a layer is gone: its files are known by path alone");
            return Ok(Vec::new());
        }
        table => table?,
    };
    let read = tokio::task::spawn_blocking(move || {
        let (mut files, mut sieve) = (Vec::new(), Sieve::default());
        let mut list = |name: &str, len, digest| {
            let Ok(path) = EntryPath::parse(name.as_bytes()) else { return };
            let Ok(path) = std::str::from_utf8(path.as_bytes()) else { return };
            if sieve.takes(&sought, path, &digest) {
                files.push(Listed { layer: number, path: path.to_owned(), len, digest });
            }
        };
        content_digests(&table, &annotations.toc, annotations.toc_digest, &mut list).map(|()| files)
    });
    Ok(read.await?.unwrap_or_else(|error| {
        tracing::warn!(layer = %blob.digest, %error, "a layer's files are known by path alone");
        Vec::new()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_gives_more_than_is_looked_for() {
        let (wanted, other) = (Digest::of(b"wanted"), Digest::of(b"other"));
        let sought = Sought { paths: ["known".to_owned()].into(), digests: [wanted].into() };
        let mut sieve = Sieve::default();
        assert!(!(0..100).any(|n| sieve.takes(&sought, &format!("other/{n}"), &other)));
        let taken = (0..1000).filter(|n| sieve.takes(&sought, &format!("copy/{n}"), &wanted)).count();
        assert_eq!(taken, MAX_NAMES);
        let taken = (0..1000).filter(|_| sieve.takes(&sought, "known", &other)).count();
        assert_eq!(taken, 1, "a path is there once, beyond the limit as well");
    }
}
