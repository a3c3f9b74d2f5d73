//! Why a command failed: one line that names the image, the layer and the cause.

use std::path::PathBuf;

use jaunt_distribution::signatures::KeyFileError;
use jaunt_formats::boot::{BootError, TraceError};
use jaunt_formats::cosign::KeyError;
use jaunt_formats::cosign::manifest::ManifestError;
use jaunt_formats::launch::LaunchError;
use jaunt_formats::tree::{LogError, TreeError};
use jaunt_formats::{Digest, DigestError};

use crate::file_error::FileError;
use crate::finding::Finding;
use crate::manifest::DocumentError;
use crate::place::{ImageName, PlaceError};
use crate::stream::StreamError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("cannot print: {0}")]
    Print(std::io::Error),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("{0}; where the image's own repository may not be written to, --to REF converts a copy of it")]
    MayNotWrite(PlaceError),
    #[error("{0}: {1} is of media type {2:?}, which is no image")]
    NotAnImage(String, Digest, String),
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// What is wrong with one image, and which.
    #[error("{reference}: image {image}: {source}")]
    Image { reference: String, image: Digest, source: Box<Error> },
    /// Each of them has been named before.
    #[error("{reference}: {failed} of {images} images could not be converted")]
    Images { reference: String, failed: usize, images: usize },
    /// Each of them has been named before.
    #[error("{repository}: {failed} of {tags} tags name images that could not be converted")]
    Tags { repository: String, failed: usize, tags: usize },
    #[error("{repository}: no tag names an image there: is this the repository's name?")]
    NoTags { repository: String },
    /// Nor is an index replaced in part, unless its user says which part.
    #[error(
        "{reference} is not replaced: {failed} of {images} images could not be converted; --platform names others"
    )]
    NotReplaced { reference: String, failed: usize, images: usize },
    #[error(
        "{reference}: {digest} is a manifest of Docker's schema 1, which has no diffIDs to check a conversion by: \
         pull the image and push it again with a current tool"
    )]
    Schema1 { reference: String, digest: Digest },
    #[error("{reference} stands for {what}: refused")]
    TooMuch { reference: String, what: String },
    #[error("it has {layers} layers, but its config names {diff_ids} diffIDs")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("its config names a malformed diffID: {source}")]
    DiffId { source: DigestError },
    #[error("{image} is signed ({by}): another manifest would have no signature; --force replaces it anyway")]
    Signed { image: Digest, by: String },
    #[error("{0} is replaced already: copy it without --mode replace")]
    AlreadyReplaced(String),
    #[error(
        "{reference}: the tag named {then}, and names {now} now: others moved it meanwhile, and it is left alone"
    )]
    TagMoved { reference: String, then: String, now: String },
    #[error(
        "{reference}: nothing to revert: {now} replaced nothing, and no tag keeps it as an original. Either the tag \
         was never replaced, or it moved since"
    )]
    NeverReplaced { reference: String, now: Digest },
    #[error(
        "{reference} is {now}, which is not what replacing {original} made: the tag moved since, and is left alone"
    )]
    MovedOn { reference: String, now: Digest, original: Digest },
    #[error("{reference}: the original {original} cannot be restored: {missing} is gone")]
    OriginalGone { reference: String, original: Digest, missing: String },
    #[error(
        "{reference}: {image} was replaced in place: its layers are the converted ones, and its manifest names its \
         launch index. revert gives the tag its original back"
    )]
    Tied { reference: String, image: Digest },
    #[error("{reference}: the registry does not allow to delete {}", left.join("; "))]
    NotDetached { reference: String, left: Vec<String> },
    #[error("blob {blob} has {what} bytes where its manifest says {size}")]
    BlobLength { blob: Digest, what: String, size: u64 },
    #[error("layer {layer}: {source}")]
    Layer { layer: Digest, source: StreamError },
    #[error("layer {layer}: the tar has digest {actual}, but the image's config says {expected}")]
    WrongDiffId { layer: Digest, expected: Digest, actual: Digest },
    #[error("layer {layer}: the blob has digest {actual} and {len} bytes; the manifest says {size}")]
    WrongBlob { layer: Digest, actual: Digest, len: u64, size: u64 },
    #[error("layers do not merge: {0}")]
    Tree(#[from] TreeError),
    #[error("layers do not merge: {0}")]
    Entries(#[from] LogError),
    #[error("cannot set the layer's entries aside: {0}")]
    Spool(std::io::Error),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("the compressor failed: {0}")]
    Zstd(#[from] jaunt_formats::compression::ZstdError),
    #[error("a worker thread failed: {0}")]
    Worker(#[from] tokio::task::JoinError),
    #[error("cannot start the compression threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    #[error("tag {0} holds something else than a list of referrers")]
    Referrers(String),
    #[error("{0} is not converted: no launch artifact names it as its subject")]
    NotConverted(Digest),
    #[error("{reference}: nothing to do: {}", reasons.join("; "))]
    NoImage { reference: String, reasons: Vec<String> },
    #[error("launch artifact {0} has no boot pack")]
    NoPack(Digest),
    #[error("the traces touch nothing")]
    EmptyTraces,
    #[error(
        "a boot pack of these traces would be empty: {absent} of the {paths} files that they name are not in the image{}",
        if *paths > *absent { ", and nothing of the others was touched by half of the starts" } else { "" }
    )]
    EmptyPack { absent: usize, paths: usize },
    #[error("the image does not tell what its command needs: it names no program that is in it")]
    NothingForeseen,
    #[error("the traces touch more than {0} bytes")]
    TooManyTouches(u64),
    #[error("{}: {source}", path.display())]
    Trace { path: PathBuf, source: TraceError },
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("launch artifact {artifact} is signed ({by}): --sign-key signs the one that takes its place")]
    SignedArtifact { artifact: Digest, by: String },
    #[error("launch artifact {artifact}: {what}")]
    Artifact { artifact: Digest, what: String },
    #[error("layer {layer}: {what}")]
    Mismatch { layer: Digest, what: String },
    #[error("{first}{}", if *more > 0 { format!("; and {more} more findings: verify tells them") } else { String::new() })]
    Finding { first: Box<Finding>, more: usize },
    #[error("{reference} does not verify: {findings} {}", if *findings == 1 { "finding" } else { "findings" })]
    Differs { reference: String, findings: usize },
    #[error("{}: {source}", path.display())]
    KeyFile { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}{}", path.display(), if *source == KeyError::PasswordNeeded { ": set COSIGN_PASSWORD" } else { "" })]
    Key { path: PathBuf, source: KeyError },
    #[error(transparent)]
    PublicKey(#[from] KeyFileError),
    #[error("launch artifact {artifact}: {source}")]
    Signatures { artifact: Digest, source: ManifestError },
    #[error("launch artifact {artifact} is not signed by a key that was given: {what}")]
    NotSigned { artifact: Digest, what: String },
    #[error("tag {0} is moved by others all the time: sign again")]
    SignatureTag(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: FileError },
    #[error("interrupted: what was finished is kept, and the same command goes on from there")]
    Interrupted { signal: i32 },
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

impl Error {
    /// Whether the same may succeed later without anything being changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Place(error) | Self::Layer { source: StreamError::Place(error), .. } => {
                error.is_transient()
            }
            _ => false,
        }
    }

    /// Names the image at fault, unless the error names the place itself.
    pub fn of_image(self, reference: &ImageName, image: Digest) -> Self {
        match self {
            Self::Place(_) | Self::MayNotWrite(_) | Self::Image { .. } => self,
            source => Self::Image { reference: reference.to_string(), image, source: Box::new(source) },
        }
    }
}
