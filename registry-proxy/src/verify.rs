//! `verify`: reads a whole conversion back and checks it against the image, bit by bit.
//!
//! For every layer: each span against its BLAKE3 digest, the tar they decode to against the diffID, the
//! blob against its digest, the TOC against its annotation. Then the tree is built anew from the tars
//! and must give the launch index, byte for byte.

use std::collections::HashMap;
use std::collections::hash_map::Entry::Vacant;
use std::io::Read as _;

use jaunt_distribution::Client;
use jaunt_formats::compression::FrameDecoder;
use jaunt_formats::launch::{self, LaunchIndex, LaunchLayer};
use jaunt_formats::tar::{Event, Scanner};
use jaunt_formats::zstd_chunked::{self, Annotations};
use jaunt_formats::{Digest, DigestScope, Entry, Span, SpanDigest};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::artifact::Artifact;
use crate::cli::VerifyArgs;
use crate::console::{Console, bytes};
use crate::error::Error;
use crate::image::{self, Image};
use crate::launch::tree_of;
use crate::manifest::Descriptor;
use crate::place::Place;
use crate::sign;
use crate::stream::{self, BlobRead, BlobReader, StreamError, explain};

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
    let mut verified = Vec::new();
    for image in &resolved.images {
        let artifact = verify(&place, image, &console).await;
        let artifact = artifact.map_err(|error| error.of_image(reference, image.descriptor.digest))?;
        let signed_by = match &keys[..] {
            [] => None,
            keys => Some(sign::check(&place, artifact, keys).await?),
        };
        if let Some(key) = &signed_by {
            console.line(&format!("signed: artifact {artifact}, key {key}"));
        }
        verified.push(json!({
            "manifest": image.descriptor.digest,
            "artifact": artifact,
            "verified": true,
            "signed_by": signed_by,
        }));
    }
    if let Some(error) = resolved.failed.into_iter().next() {
        return Err(error);
    }
    console.result(&json!({ "reference": reference.to_string(), "images": verified }))
}

/// Reads the conversion of one image back; its artifact.
pub async fn verify(place: &Place, image: &Image, console: &Console) -> Result<Digest, Error> {
    let subject = image.descriptor.digest;
    let found = Artifact::find(place, &subject).await?;
    let artifact = found.ok_or(Error::NotConverted(subject))?;
    let index = artifact.launch_index(place).await?;
    launch::check(&index)?;
    check_layers(&artifact, image, &index)?;
    let mut entries: HashMap<Digest, Vec<Entry>> = HashMap::new();
    for (layer, original) in index.layers().iter().zip(&image.layers) {
        let digest = layer.converted.digest;
        let descriptor = artifact.converted(original).filter(|named| named.digest == digest);
        let descriptor =
            descriptor.ok_or_else(|| wrong(&artifact, "it does not list a layer of its launch index"))?;
        if let Vacant(slot) = entries.entry(digest) {
            slot.insert(verify_layer(place, layer, descriptor).await?);
            let (spans, tar) = (layer.spans.len(), bytes(layer.tar_len));
            console.line(&format!("  layer {digest}: {spans} spans, {tar} of tar"));
        }
    }
    let stack = index.layers().iter().map(|layer| entries[&layer.converted.digest].clone());
    let rebuilt = launch::write(index.layers(), &tree_of(stack)?)?;
    if rebuilt != index.into_bytes() {
        return Err(wrong(&artifact, "its tree is not the one that the layers' tars give"));
    }
    console.line(&format!("verified: {} {subject}, artifact {}", image.platform, artifact.digest));
    Ok(artifact.digest)
}

fn wrong(artifact: &Artifact, what: &str) -> Error {
    Error::Artifact { artifact: artifact.digest, what: what.to_owned() }
}

/// The index must stand for the layers of the image, in their order.
fn check_layers(artifact: &Artifact, image: &Image, index: &LaunchIndex<Vec<u8>>) -> Result<(), Error> {
    let is_for = |(indexed, named): (&LaunchLayer, &image::Layer)| {
        let blob = (named.descriptor.digest, named.descriptor.size);
        // In replace mode, the image's layer is the converted blob itself.
        let blobs = [&indexed.original, &indexed.converted].map(|blob| (blob.digest, blob.len));
        indexed.diff_id == named.diff_id && blobs.contains(&blob)
    };
    if index.layers().len() == image.layers.len() && index.layers().iter().zip(&image.layers).all(is_for) {
        Ok(())
    } else {
        Err(wrong(artifact, "its launch index is for other layers than the image's"))
    }
}

/// Reads a converted layer whole and checks all of it; its entries, as the tar has them.
pub async fn verify_layer(
    place: &Place,
    layer: &LaunchLayer,
    descriptor: &Descriptor,
) -> Result<Vec<Entry>, Error> {
    let digest = layer.converted.digest;
    let blob = place.blob_stream(&digest).await?;
    let (sender, reader) = stream::channel();
    let (owned, annotations) = (layer.clone(), descriptor.annotations.clone().unwrap_or_default());
    let reading = tokio::task::spawn_blocking(move || {
        let annotations = annotations.into_iter().collect();
        read_layer(reader, &owned, Annotations::parse(&annotations).map_err(|error| error.to_string()))
    });
    let ((), read) = tokio::join!(stream::pump(blob, layer.converted.len, sender), reading);
    let read = read?.map_err(|source| Error::Layer { layer: digest, source })?;
    let mismatch = |what: String| Err(Error::Mismatch { layer: digest, what });
    match read {
        Read { blob, .. } if (blob.digest, blob.len) != (digest, layer.converted.len) => {
            mismatch(format!("the converted blob has digest {} and {} bytes", blob.digest, blob.len))
        }
        Read { tar, .. } if (tar.digest, tar.len) != (layer.diff_id.0, layer.tar_len) => {
            mismatch(format!("its spans decode to a tar with digest {}, not {}", tar.digest, layer.diff_id))
        }
        Read { toc: Err(what), .. } => mismatch(what),
        Read { entries, .. } => Ok(entries),
    }
}

struct Read {
    blob: BlobRead,
    tar: BlobRead,
    toc: Result<(), String>,
    entries: Vec<Entry>,
}

fn read_layer(
    mut blob: BlobReader,
    layer: &LaunchLayer,
    annotations: Result<Option<Annotations>, String>,
) -> Result<Read, StreamError> {
    let mut reader =
        SpanReader { decoder: FrameDecoder::new(), compressed: Vec::new(), tar: Vec::new(), at: 0 };
    let (mut scanner, mut digest, mut entries) = (Scanner::new(), Sha256::new(), Vec::new());
    for (number, span) in layer.spans.iter().enumerate() {
        let tar = reader.read(&mut blob, number, span, layer.scope)?;
        digest.update(tar);
        scanner.push(tar, &mut |event| {
            if let Event::Member(member) = event {
                entries.push(member.entry);
            }
        })?;
    }
    let len = scanner.offset().0;
    scanner.finish()?;
    let mut tail = Vec::new();
    blob.by_ref()
        .take(2 * zstd_chunked::MAX_TOC_LEN)
        .read_to_end(&mut tail)
        .map_err(|error| explain("the blob", error))?;
    let toc = annotations.and_then(|annotations| check_toc(annotations, &tail, reader.at));
    let tar = BlobRead { digest: Digest::from_bytes(digest.finalize().into()), len };
    Ok(Read { blob: blob.finish()?, tar, toc, entries })
}

struct SpanReader {
    decoder: FrameDecoder,
    compressed: Vec<u8>,
    tar: Vec<u8>,
    /// Blob offset of the next byte.
    at: u64,
}

impl SpanReader {
    fn read(
        &mut self,
        blob: &mut BlobReader,
        number: usize,
        span: &Span,
        scope: DigestScope,
    ) -> Result<&[u8], StreamError> {
        let offset = span.blob_offset.0;
        let refuse = |what: String| StreamError::Span { span: number, offset, what };
        if offset != self.at {
            return Err(refuse(format!("it does not follow the one before it, which ends at {}", self.at)));
        }
        self.compressed.resize(span.compressed_len as usize, 0);
        blob.read_exact(&mut self.compressed).map_err(|error| explain("the blob", error))?;
        self.at += u64::from(span.compressed_len);
        let actual = SpanDigest(blake3::hash(&self.compressed).into());
        if scope != DigestScope::Compressed || actual != span.digest {
            return Err(refuse(format!("its digest is {actual:?}, not {:?}", span.digest)));
        }
        self.tar.resize(span.tar_len as usize, 0);
        self.decoder.decode(&self.compressed, &mut self.tar).map_err(|error| refuse(error.to_string()))?;
        Ok(&self.tar)
    }
}

/// Decodes the TOC that the annotations name, out of the blob's bytes from `start` on.
fn check_toc(annotations: Option<Annotations>, tail: &[u8], start: u64) -> Result<(), String> {
    let Some(annotations) = annotations else { return Ok(()) };
    let part = |position: &zstd_chunked::Position| {
        let from = usize::try_from(position.offset.0.checked_sub(start)?).ok()?;
        tail.get(from..from.checked_add(usize::try_from(position.len).ok()?)?)
    };
    let toc = part(&annotations.toc).ok_or("its TOC is not where the annotation says")?;
    zstd_chunked::decode_toc(toc, &annotations.toc, annotations.toc_digest)
        .map_err(|error| error.to_string())?;
    Ok(())
}
