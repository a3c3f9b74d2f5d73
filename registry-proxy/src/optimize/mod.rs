//! `optimize`: gives an image a boot pack, made of what starts were seen to touch.
//!
//! The pack is cut from the converted layers in the registry, each span verified; the launch artifact is published anew with it,
//! and the one before is removed as `detach` removes one. The image, its index and its layers stay as they are. The same
//! traces give the same pack.
//!
//! A signature is of one artifact: who publishes another one signs it ([`--sign-key`](crate::cli::OptimizeArgs)) or, where the one before
//! was signed, is refused.

mod carry;
mod merge;

use std::path::Path;

use bytes::Bytes;
use jaunt_distribution::Client;
use jaunt_formats::Digest;
use jaunt_formats::boot::{MAX_TRACE_LEN, PACK_RECIPE, Pack, PackWriter, Trace};
use jaunt_formats::compression::encoder_version;
use jaunt_formats::launch::LaunchIndex;
use jaunt_formats::media_type::{BOOT_TABLE, BOOT_TRACES, LAUNCH_BOOT_PACK, RECIPE};
use serde_json::{Value, json};

use crate::artifact::{Artifact, Unpublished, table_place};
use crate::cli::OptimizeArgs;
use crate::console::{Console, bytes};
use crate::content;
use crate::detach;
use crate::error::Error;
use crate::image::{self, Image};
use crate::manifest::Descriptor;
use crate::place::{ImageName, Place};
use crate::sign::Signer;
use crate::{signed, verify};
use merge::Wanted;

/// Runs the command.
pub async fn run(client: Client, args: &OptimizeArgs) -> Result<(), Error> {
    let console = Console::new(args.common.json);
    let signer = args.sign_key.as_deref().map(Signer::load).transpose()?;
    let reference = &args.common.reference;
    let place = Place::of(&client, reference);
    let resolved = image::resolve(&place, reference, &args.platforms.wanted).await?;
    if resolved.images.is_empty() && resolved.failed.is_empty() {
        return Err(resolved.nothing(reference));
    }
    let traces = read_traces(&args.trace)?;
    let mut documents = Vec::new();
    let work = Work {
        client: &client,
        args,
        place: &place,
        traces: &traces,
        signer: signer.as_ref(),
        console: &console,
    };
    let mut litter = Vec::new();
    for image in &resolved.images {
        let done = work.image(image, &mut litter).await;
        documents.push(done.map_err(|error| error.of_image(reference, image.descriptor.digest))?);
    }
    // A layout lets nobody remove anything while there is a writer.
    drop(place);
    if let Err(error) = Place::of(&client, reference).collect(litter).await {
        tracing::warn!(%error, "what the artifacts before had stays");
    }
    console.result(&json!({ "reference": reference.to_string(), "images": documents }))?;
    resolved.failed.into_iter().next().map_or(Ok(()), Err)
}

/// What is the same for all images of a reference.
struct Work<'w> {
    client: &'w Client,
    args: &'w OptimizeArgs,
    place: &'w Place,
    traces: &'w [(Digest, Trace)],
    signer: Option<&'w Signer>,
    console: &'w Console,
}

impl Work<'_> {
    async fn image(&self, image: &Image, litter: &mut Vec<Digest>) -> Result<Value, Error> {
        let (place, subject) = (self.place, image.descriptor.digest);
        let before = Artifact::find(place, &subject).await?.ok_or(Error::NotConverted(subject))?;
        let was_signed = signed::signature(place, &before.digest).await?;
        if let (Some(by), None, false) = (was_signed, self.signer, self.args.dry_run) {
            return Err(Error::SignedArtifact { artifact: before.digest, by });
        }
        let pack = match self.args.drop {
            true => None,
            false => Some(self.pack(image, &before).await?),
        };
        let mut document =
            json!({ "platform": image.platform.to_string(), "manifest": subject, "before": before.digest });
        if let Some((pack, wanted, _)) = &pack {
            self.tell(image, pack, wanted);
            document["pack"] = json!({
                "bytes": pack.bytes.len(), "content_bytes": content_len(wanted), "extents": wanted.extents.len(),
                "files": wanted.files, "absent": wanted.absent, "left_out_bytes": wanted.left_out,
                "digest": Digest::of(&pack.bytes),
            });
        }
        if self.args.dry_run {
            return Ok(document);
        }
        let boot = match pack {
            Some((pack, _, traces)) => Some(self.push(pack, &traces).await?),
            None => None,
        };
        let new = Unpublished::new(&image.descriptor, before.index.clone(), boot, before.layers.clone())?;
        document["artifact"] = json!(new.digest);
        if new.digest == before.digest && before.is_tagged() {
            self.console
                .line(&format!("unchanged: {} {subject}, artifact {}", image.platform, before.digest));
            return Ok(document);
        }
        if let Some(signer) = self.signer {
            // Nobody signs what he has not seen.
            verify::verify(place, image, self.console).await?;
            signer.sign(place, &self.args.common.reference, new.digest, self.console).await?;
        }
        let artifact = new.publish(place).await?;
        let what = if self.args.drop { "dropped the boot pack of" } else { "optimized" };
        self.console.line(&format!("{what} {} {subject}: artifact {}", image.platform, artifact.digest));
        if artifact.digest != before.digest {
            litter.extend(before.blobs());
            for left in detach::supersede(place, &subject, &before.digest).await? {
                self.console.line(&format!("  left: {left}"));
            }
        }
        Ok(document)
    }

    /// The pack that traces, or a predecessor's pack, ask for; with it the digests of what it was made of.
    async fn pack(&self, image: &Image, artifact: &Artifact) -> Result<(Pack, Wanted, Vec<Digest>), Error> {
        let index = artifact.launch_index(self.place).await?;
        jaunt_formats::launch::check(&index)?;
        let (mut made_of, mut traces): (Vec<Digest>, Vec<Trace>) = self.traces.iter().cloned().unzip();
        if let Some(from) = &self.args.from {
            let (pack, trace) = self.predecessor(image, from).await?;
            made_of.push(pack);
            traces.push(trace);
        }
        if traces.iter().all(|trace| trace.touches.is_empty()) {
            return Err(Error::EmptyTraces);
        }
        let limit = self.args.max_mib.saturating_mul(1 << 20);
        let wanted = merge::merge(&index, &traces, limit)?;
        let contents = content::read(self.place, index.layers(), &wanted.extents).await?;
        let (digest, extents) = (artifact.index.digest, wanted.extents.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut writer = PackWriter::new(digest)?;
            extents.into_iter().zip(contents).try_for_each(|(extent, bytes)| writer.push(extent, &bytes))?;
            writer.finish()
        });
        let pack = written.await??;
        // What nodes would refuse is not published.
        pack.table.open(&pack.bytes[..pack.table.len()])?.check(digest, index.layers())?;
        Ok((pack, wanted, made_of))
    }

    /// The pack of the image that this one follows, of the same platform; its digest, and what it holds.
    async fn predecessor(&self, image: &Image, from: &ImageName) -> Result<(Digest, Trace), Error> {
        let place = Place::of(self.client, from);
        let resolved = image::resolve(&place, from, std::slice::from_ref(&image.platform)).await?;
        let [before] = &resolved.images[..] else { return Err(resolved.nothing(from)) };
        let subject = before.descriptor.digest;
        let artifact = Artifact::find(&place, &subject).await?.ok_or(Error::NotConverted(subject))?;
        let boot = artifact.boot.as_ref().ok_or(Error::NoPack(artifact.digest))?;
        let table = table_place(boot, artifact.digest)?;
        let bytes = place.blob_range(&boot.digest, 0..table.len() as u64).await?;
        let index: LaunchIndex<Vec<u8>> = artifact.launch_index(&place).await?;
        jaunt_formats::launch::check(&index)?;
        Ok((boot.digest, carry::as_trace(&index, artifact.index.digest, &table.open(&bytes)?)?))
    }

    async fn push(&self, pack: Pack, traces: &[Digest]) -> Result<Descriptor, Error> {
        let Pack { bytes, table } = pack;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.place.push_blob(&digest, Bytes::from(bytes)).await?;
        let mut traces: Vec<String> = traces.iter().map(Digest::to_string).collect();
        traces.sort_unstable();
        let annotations = [
            (BOOT_TABLE, table.to_string()),
            (BOOT_TRACES, traces.join(" ")),
            (RECIPE, format!("{PACK_RECIPE}, {}", encoder_version())),
        ];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value)).into();
        Ok(Descriptor { annotations: Some(annotations), ..Descriptor::new(LAUNCH_BOOT_PACK, digest, size) })
    }

    fn tell(&self, image: &Image, pack: &Pack, wanted: &Wanted) {
        let (packed, content) = (bytes(pack.bytes.len() as u64), bytes(content_len(wanted)));
        let Wanted { files, absent, left_out, .. } = wanted;
        let mut line = format!("boot pack of {}: {packed}, {content} of {files} files", image.platform);
        if *absent > 0 {
            line += &format!("; {absent} paths of the traces are not in the image");
        }
        if *left_out > 0 {
            line += &format!("; {} left out that few starts touched or that found no room", bytes(*left_out));
        }
        self.console.line(&line);
    }
}

fn content_len(wanted: &Wanted) -> u64 {
    wanted.extents.iter().map(|extent| u64::from(extent.len)).sum()
}

fn read_traces(paths: &[impl AsRef<Path>]) -> Result<Vec<(Digest, Trace)>, Error> {
    use std::io::Read as _;
    let read = |path: &Path| {
        let failed = |source| Error::KeyFile { path: path.to_owned(), source };
        let mut text = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_TRACE_LEN as u64 + 1).read_to_end(&mut text).map_err(failed)?;
        let trace = Trace::parse(&text).map_err(|source| Error::Trace { path: path.to_owned(), source })?;
        Ok((Digest::of(&text), trace))
    };
    paths.iter().map(|path| read(path.as_ref())).collect()
}
