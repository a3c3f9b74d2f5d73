//! `optimize`: gives an image a boot pack, made of what starts were seen to touch or, where none was, of what its command needs.
//!
//! The pack is cut from the converted layers in the registry, each span verified; the launch artifact is published anew with it,
//! and the one before is removed as `detach` removes one. The image, its index and its layers stay as they are. The same
//! traces give the same pack; beside such as were gathered, the pack that there is counts ([`Present`]). One that would be empty is
//! refused: what the image has is better.
//!
//! A signature is of one artifact: who publishes another one signs it ([`--sign-key`](crate::cli::OptimizeArgs)) or, where the one before
//! was signed, is refused.

use std::path::Path;

use jaunt_distribution::Client;
use jaunt_formats::Digest;
use jaunt_formats::boot::{MAX_TRACE_LEN, PACK_LEVEL, Trace};
use serde_json::{Value, json};

use crate::artifact::{self, Artifact, Unpublished};
use crate::boot::carry::{self, Carried, Side};
use crate::boot::gather::{self, Gathered};
use crate::boot::present::Present;
use crate::boot::{self, Draft, Wanted};
use crate::cli::OptimizeArgs;
use crate::console::{Console, bytes};
use crate::detach;
use crate::error::Error;
use crate::image::{self, Image};
use crate::place::{ImageName, Place};
use crate::sign::Signer;
use crate::{signed, verify};

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
        let mut document =
            json!({ "platform": image.platform.to_string(), "manifest": subject, "before": before.digest });
        let (mut pack, mut left) = (None, Gathered::default());
        if !self.args.drop {
            (pack, left) = self.pack(image, &before).await?;
            if self.args.gather {
                document["gathered"] = self.tell_gathered(image, &left);
            }
            if pack.is_none() {
                if left.used.is_empty() {
                    self.console
                        .line(&format!("left as it is: {} {subject}: nobody left a trace", image.platform));
                } else {
                    document["artifact"] = json!(before.digest);
                    self.unchanged(image, &before, &left, litter).await?;
                }
                return Ok(document);
            }
        }
        if let Some(made) = &pack {
            self.tell(image, made);
            let Draft { pack, wanted, .. } = made;
            document["pack"] = json!({
                "bytes": pack.bytes.len(), "content_bytes": wanted.content_len(), "extents": wanted.extents.len(),
                "files": wanted.files, "absent": wanted.absent, "left_out_bytes": wanted.left_out,
                "digest": Digest::of(&pack.bytes),
            });
        }
        if self.args.dry_run {
            return Ok(document);
        }
        let boot = match pack {
            Some(made) => Some(boot::push(place, made).await?),
            None => None,
        };
        let new = Unpublished::new(&image.descriptor, before.index.clone(), boot, before.layers.clone())?;
        document["artifact"] = json!(new.digest);
        if new.digest == before.digest && before.is_tagged() {
            self.unchanged(image, &before, &left, litter).await?;
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
        self.consume(&subject, &left, litter).await?;
        Ok(document)
    }

    /// The artifact before has all that was gathered.
    async fn unchanged(
        &self,
        image: &Image,
        before: &Artifact,
        left: &Gathered,
        litter: &mut Vec<Digest>,
    ) -> Result<(), Error> {
        let subject = image.descriptor.digest;
        self.console.line(&format!("unchanged: {} {subject}, artifact {}", image.platform, before.digest));
        self.consume(&subject, left, litter).await
    }

    /// Deletes what was gathered, if that is wanted.
    async fn consume(
        &self,
        subject: &Digest,
        left: &Gathered,
        litter: &mut Vec<Digest>,
    ) -> Result<(), Error> {
        if !self.args.consume || self.args.dry_run {
            return Ok(());
        }
        litter.extend(left.used.iter().map(|left| left.digest));
        for artifact in left.artifacts() {
            litter.push(artifact);
            for left in detach::supersede(self.place, subject, &artifact).await? {
                self.console.line(&format!("  left: {left}"));
            }
        }
        Ok(())
    }

    /// The pack that traces, or a predecessor's pack, ask for, and what was gathered for it; `None` where nobody has left a trace and nothing
    /// else was asked for, or the pack that there is was made of all the traces.
    async fn pack(&self, image: &Image, artifact: &Artifact) -> Result<(Option<Draft>, Gathered), Error> {
        let index = artifact.launch_index(self.place).await?;
        jaunt_formats::launch::check(&index)?;
        let named = (artifact.index.digest, &index);
        let mut traces = self.traces.to_vec();
        let mut left = Gathered::default();
        if self.args.gather {
            left = gather::gather(self.place, &image.descriptor.digest, &index).await?;
            traces.extend(left.used.iter().map(|left| (left.digest, left.trace.clone())));
            if traces.is_empty() && self.args.from.is_none() && !self.args.foresee {
                return Ok((None, left));
            }
        }
        let (mut made_of, mut traces): (Vec<Digest>, Vec<Trace>) = traces.into_iter().unzip();
        let new = Side { place: self.place, index: &index, layers: &artifact.layers };
        let mut follows = None;
        if let Some(from) = &self.args.from {
            let Carried { pack, trace, moved } = self.predecessor(image, from, new).await?;
            if moved > 0 {
                self.console.line(&format!("  {moved} files of the pack before have another name now"));
            }
            traces.push(trace);
            follows = Some(pack);
        } else if let Some((present, Carried { pack, trace, .. })) =
            self.present(artifact, &made_of, new).await?
        {
            if present == Present::All {
                return Ok((None, left));
            }
            self.console.line("  the boot pack that there is counts as one start more");
            made_of.push(pack);
            traces.push(trace);
            follows = artifact.boot.as_ref().and_then(artifact::follows);
        }
        if self.args.foresee {
            let foreseen = boot::foresee(self.place, named, &image.command).await?;
            if foreseen.touches.is_empty() {
                return Err(Error::NothingForeseen);
            }
            traces.push(foreseen);
        }
        let limit = self.args.max_mib.saturating_mul(1 << 20);
        let made = boot::make(self.place, named, &traces, limit, PACK_LEVEL).await?;
        let Wanted { extents, absent, paths, .. } = &made.wanted;
        if extents.is_empty() {
            return Err(Error::EmptyPack { absent: *absent, paths: *paths });
        }
        Ok((Some(Draft { made_of, follows, ..made }), left))
    }

    /// What the image's own pack adds to what was gathered, and what it holds; `None` if nothing, or it is no good.
    async fn present(
        &self,
        artifact: &Artifact,
        traces: &[Digest],
        own: Side<'_>,
    ) -> Result<Option<(Present, Carried)>, Error> {
        let present = Present::beside(artifact.boot.as_ref(), traces);
        if !self.args.gather || present == Present::Nothing {
            return Ok(None);
        }
        let carried = carry::if_sound(self.place, artifact, own).await?;
        // An empty one knows of no start.
        Ok(carried.filter(|carried| !carried.trace.touches.is_empty()).map(|carried| (present, carried)))
    }

    /// Which traces were used, and which not; the same as a document.
    fn tell_gathered(&self, image: &Image, Gathered { used, refused }: &Gathered) -> Value {
        self.console.line(&format!("traces left beside {}: {} used", image.platform, used.len()));
        for left in used {
            let Trace { head, touches } = &left.trace;
            let (count, ready) = (touches.len(), head.ready_ms);
            self.console.line(&format!("  {}: {count} touches in {ready} ms", left.artifact));
        }
        for (artifact, why) in refused {
            self.console.line(&format!("  not {artifact}: {why}"));
        }
        let used = used.iter().map(|left| json!({ "artifact": left.artifact, "trace": left.digest }));
        let refused = refused.iter().map(|(artifact, why)| json!({ "artifact": artifact, "why": why }));
        json!({ "used": used.collect::<Vec<_>>(), "refused": refused.collect::<Vec<_>>() })
    }

    /// The pack of the image that this one follows, of the same platform.
    async fn predecessor(&self, image: &Image, from: &ImageName, new: Side<'_>) -> Result<Carried, Error> {
        let place = Place::of(self.client, from);
        let resolved = image::resolve(&place, from, std::slice::from_ref(&image.platform)).await?;
        let [before] = &resolved.images[..] else { return Err(resolved.nothing(from)) };
        let subject = before.descriptor.digest;
        let artifact = Artifact::find(&place, &subject).await?.ok_or(Error::NotConverted(subject))?;
        carry::of_artifact(&place, &artifact, new).await
    }

    fn tell(&self, image: &Image, Draft { pack, wanted, .. }: &Draft) {
        let (packed, content) = (bytes(pack.bytes.len() as u64), bytes(wanted.content_len()));
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
