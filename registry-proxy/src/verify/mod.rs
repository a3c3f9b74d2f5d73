//! `verify`: reads a whole conversion back, holds it against the image, and says what differs.
//!
//! For every layer: each span against its BLAKE3 digest, the tar they decode to against the diffID, the
//! blob against its digest, TOC, tar-split and footer against the tar and the annotations, the seek table
//! against the frames. Then the tree is built anew from the tars and must give the launch index, byte for
//! byte. With `--originals`, the blobs that were converted are read, too.

mod boot;
mod layer;
mod original;
mod tail;
mod tree;

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jaunt_distribution::Client;
use jaunt_formats::cosign::VerifyingKey;
use jaunt_formats::launch::{self, LaunchIndex, LaunchLayer};
use jaunt_formats::tree::Tree;
use jaunt_formats::{Digest, Entry};
use serde_json::json;

use crate::artifact::{self, Artifact};
use crate::cli::VerifyArgs;
use crate::console::{Console, bytes};
use crate::error::Error;
use crate::finding::{Check, Finding, Findings};
use crate::image::{self, Image};
use crate::manifest::Descriptor;
use crate::place::Place;
use crate::sign;

/// How much is read.
#[derive(Clone, Copy, Debug)]
struct Depth {
    originals: bool,
    /// Our own tag must name the artifact, or else its conversion did not come to its end. Who signs need
    /// not care.
    tag: bool,
    /// Layers at the same time.
    concurrency: usize,
}

/// Runs the command.
pub async fn run(client: Client, args: &VerifyArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let keys = sign::keys(&args.key)?;
    let reference = &args.common.reference;
    let place = Place::of(&client, reference);
    let resolved = image::resolve(&place, reference, &args.platforms.wanted).await?;
    if resolved.images.is_empty() && resolved.failed.is_empty() {
        return Err(resolved.nothing(reference));
    }
    let depth = Depth { originals: args.originals, tag: true, concurrency: args.concurrency.into() };
    let (mut documents, mut findings) = (Vec::new(), 0);
    for image in &resolved.images {
        let subject = image.descriptor.digest;
        let mut checked = Checked::default();
        if let Err(error) = checked.image(&place, image, &keys, depth, &console).await {
            checked.findings.push(Finding::new(Check::Artifact, error.to_string()));
        }
        let Checked { artifact, signed_by, findings: of_image } = checked;
        let of_image = of_image.of_image(subject);
        of_image.kept().iter().for_each(|finding| console.error(&format!("{subject}: {finding}")));
        if of_image.more() > 0 {
            console.error(&format!("{subject}: and {} more findings", of_image.more()));
        }
        findings += of_image.count();
        documents.push(json!({
            "manifest": subject,
            "artifact": artifact,
            "verified": of_image.count() == 0,
            "signed_by": signed_by,
            "findings": of_image.kept(),
            "more_findings": of_image.more(),
        }));
    }
    console.result(&json!({ "reference": reference.to_string(), "images": documents }))?;
    if findings > 0 {
        resolved.failed.iter().for_each(|error| console.error(error));
        return Err(Error::Differs { reference: reference.to_string(), findings });
    }
    resolved.failed.into_iter().next().map_or(Ok(()), Err)
}

/// Reads the conversion of one image back, all of which must be as it should; its artifact.
pub async fn verify(place: &Place, image: &Image, console: &Console) -> Result<Digest, Error> {
    let mut checked = Checked::default();
    checked.image(place, image, &[], Depth { originals: false, tag: false, concurrency: 2 }, console).await?;
    match (checked.findings.into_first(), checked.artifact) {
        (None, Some(artifact)) => Ok(artifact),
        (None, None) => Err(Error::NotConverted(image.descriptor.digest)),
        (Some((first, more)), _) => Err(Error::Finding { first: Box::new(first), more }),
    }
}

/// Reads a converted layer whole and checks all of it; its entries, as the tar has them.
pub async fn verify_layer(
    place: &Place,
    layer: &LaunchLayer,
    descriptor: &Descriptor,
) -> Result<Vec<Entry>, Error> {
    let digest = layer.converted.digest;
    let checked = layer::check(place, layer, descriptor).await?;
    match (checked.findings.into_first(), checked.entries) {
        (None, Some(entries)) => Ok(entries),
        (None, None) => Err(Error::Mismatch { layer: digest, what: "it has no entries".to_owned() }),
        (Some((first, more)), _) => {
            let first = Box::new(Finding { layer: Some(digest), ..first });
            Err(Error::Finding { first, more })
        }
    }
}

/// What checking one image gave so far.
#[derive(Default)]
struct Checked {
    artifact: Option<Digest>,
    signed_by: Option<Digest>,
    findings: Findings,
}

impl Checked {
    async fn image(
        &mut self,
        place: &Place,
        image: &Image,
        keys: &[VerifyingKey],
        depth: Depth,
        console: &Console,
    ) -> Result<(), Error> {
        let subject = image.descriptor.digest;
        let artifact = Artifact::find(place, &subject).await?.ok_or(Error::NotConverted(subject))?;
        self.artifact = Some(artifact.digest);
        if depth.tag && !artifact.is_tagged() {
            let what = format!("tag {} does not name it", artifact::tag(&subject));
            self.refuse(Check::Artifact, what);
        }
        if !keys.is_empty() {
            match sign::check(place, artifact.digest, keys).await {
                Ok(key) => {
                    console.line(&format!("signed: artifact {}, key {key}", artifact.digest));
                    self.signed_by = Some(key);
                }
                Err(error) => self.refuse(Check::Signature, error.to_string()),
            }
        }
        let index = artifact.launch_index(place).await?;
        let sound = launch::check(&index).map_err(|error| self.refuse(Check::Tree, error.to_string()));
        self.check_descriptors(&artifact, image, &index);
        let entries = self.layers(place, &artifact, image, &index, depth, console).await?;
        // What the layers themselves are not cannot be held against the pack.
        if let Some(pack) = artifact.boot.as_ref().filter(|_| self.findings.count() == 0) {
            let found = boot::check(place, &artifact, pack, &index).await?;
            if found.is_empty() {
                console.line(&format!("  boot pack {}: {}", pack.digest, bytes(pack.size)));
            }
            found.into_iter().for_each(|finding| self.findings.push(finding));
        }
        if sound.is_ok() {
            self.tree(index, &entries).await?;
        }
        if self.findings.count() == 0 {
            console.line(&format!("verified: {} {subject}, artifact {}", image.platform, artifact.digest));
        }
        Ok(())
    }

    fn refuse(&mut self, check: Check, what: impl Into<String>) {
        self.findings.push(Finding::new(check, what));
    }

    /// The index must stand for the layers of the image in their order, and the artifact list them.
    fn check_descriptors(&mut self, artifact: &Artifact, image: &Image, index: &LaunchIndex<Vec<u8>>) {
        if index.layers().len() != image.layers.len() {
            let finding = Finding::new(Check::Artifact, "its launch index has layers");
            self.findings.push(finding.values(image.layers.len(), index.layers().len()));
        }
        for (indexed, named) in index.layers().iter().zip(&image.layers) {
            let mut differ = |what: &str, expected: String, actual: String| {
                let finding = Finding::new(Check::Artifact, what).values(expected, actual);
                self.findings.push(Finding { layer: Some(named.descriptor.digest), ..finding });
            };
            if indexed.diff_id != named.diff_id {
                let expected = named.diff_id.to_string();
                differ("in the launch index its diffID is", expected, indexed.diff_id.to_string());
            }
            // In replace mode, the image's layer is the converted blob itself.
            let blobs = [&indexed.original, &indexed.converted].map(|blob| (blob.digest, blob.len));
            let text = |digest: Digest, len: u64| format!("{digest} of {len} bytes");
            let (digest, size) = (named.descriptor.digest, named.descriptor.size);
            if !blobs.contains(&(digest, size)) {
                let actual = text(indexed.original.digest, indexed.original.len);
                differ("the launch index is for another blob", text(digest, size), actual);
            }
            let listed = artifact.converted(named).map(|blob| text(blob.digest, blob.size));
            let expected = text(indexed.converted.digest, indexed.converted.len);
            if listed.as_ref() != Some(&expected) {
                let actual = listed.unwrap_or_else(|| "nothing".to_owned());
                differ("for it, the artifact lists", expected, actual);
            }
        }
    }

    /// Checks every layer, each once; the entries of those that have any.
    async fn layers(
        &mut self,
        place: &Place,
        artifact: &Artifact,
        image: &Image,
        index: &LaunchIndex<Vec<u8>>,
        depth: Depth,
        console: &Console,
    ) -> Result<HashMap<Digest, Vec<Entry>>, Error> {
        let (mut converted, mut originals) = (Vec::<&LaunchLayer>::new(), HashSet::new());
        let layers = index.layers().iter().map(|layer| {
            // Two layers may have one blob; what the index says of it is checked each time it differs.
            let same = |known: &&LaunchLayer| {
                known.converted == layer.converted
                    && LaunchLayer { original: layer.original, ..(*known).clone() } == *layer
            };
            let new_converted = !converted.iter().any(same);
            converted.push(layer);
            let new_original = originals.insert((layer.original, layer.diff_id)) && depth.originals;
            (layer, new_converted, new_original)
        });
        let new: Vec<_> = layers.filter(|(_, converted, original)| *converted || *original).collect();
        let checks = new.into_iter().map(|(layer, new_converted, new_original)| async move {
            let mut checked = layer::Checked::default();
            if new_converted {
                let digest = layer.converted.digest;
                let unlisted = Descriptor::new("", digest, layer.converted.len);
                let listed = artifact.layers.iter().find(|blob| blob.digest == digest);
                checked = layer::check(place, layer, listed.unwrap_or(&unlisted)).await?;
            }
            if new_original {
                let named =
                    image.layers.iter().find(|named| named.descriptor.digest == layer.original.digest);
                let media_type = named.map(|named| named.descriptor.media_type.as_str());
                checked.findings.append(original::check(place, layer, media_type).await?, None);
            }
            Ok::<_, Error>((layer, new_converted, checked))
        });
        let mut checks = stream::iter(checks).buffered(depth.concurrency);
        let mut entries = HashMap::new();
        while let Some((layer, new_converted, checked)) = checks.try_next().await? {
            let digest = layer.converted.digest;
            if new_converted && checked.findings.count() == 0 {
                let (spans, tar) = (layer.spans.len(), bytes(layer.tar_len));
                console.line(&format!("  layer {digest}: {spans} spans, {tar} of tar"));
            }
            self.findings.append(checked.findings, Some(digest));
            if let Some(of_layer) = checked.entries {
                entries.insert(digest, of_layer);
            }
        }
        Ok(entries)
    }

    /// Builds the tree anew. Where a layer's entries are not to be had, that has been said already.
    async fn tree(
        &mut self,
        index: LaunchIndex<Vec<u8>>,
        entries: &HashMap<Digest, Vec<Entry>>,
    ) -> Result<(), Error> {
        let stack = index.layers().iter().map(|layer| entries.get(&layer.converted.digest).cloned());
        let Some(stack) = stack.collect::<Option<Vec<_>>>() else {
            self.refuse(Check::Tree, "it is not compared: the entries of a layer are not to be had");
            return Ok(());
        };
        let findings = tokio::task::spawn_blocking(move || compare_tree(index, stack)).await??;
        self.findings.append(findings, None);
        Ok(())
    }
}

fn compare_tree(index: LaunchIndex<Vec<u8>>, stack: Vec<Vec<Entry>>) -> Result<Findings, Error> {
    let rebuilt = launch::write(index.layers(), Tree::of_layers(stack)?)?;
    let given = index.into_bytes();
    let mut findings = Findings::default();
    if rebuilt != given {
        tree::compare(&LaunchIndex::open(rebuilt)?, &LaunchIndex::open(given)?, &mut findings)?;
    }
    Ok(findings)
}
