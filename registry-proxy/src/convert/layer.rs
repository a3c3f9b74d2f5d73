//! One layer from its place and back: download, conversion and upload at the same time.
//!
//! Nothing is committed before the original blob matched its digest and the tar its diffID.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::sync::mpsc;

use super::progress::LayerProgress;
use crate::error::Error;
use crate::image::Layer;
use crate::manifest::Descriptor;
use crate::pipeline::{Processed, Workshop};
use crate::place::{Place, PlaceError, Upload};
use crate::stream::{self, BlobRead, StreamError};

/// Pieces of the converted blob that wait for the network; a span has some 200 KiB.
const QUEUE: usize = 8;

/// Converts one layer and pushes its blob.
pub async fn convert(
    place: &Place,
    layer: &Layer,
    workshop: Arc<Workshop>,
    progress: Arc<LayerProgress>,
) -> Result<Processed, Error> {
    let digest = layer.descriptor.digest;
    let failed = |source: StreamError| Error::Layer { layer: digest, source };
    let blob = place.blob_stream(&digest).await?;
    let upload = place.start_upload().await?;

    let (sender, reader) = stream::channel();
    let download = blob.inspect_ok(move |piece| progress.add_original(piece.len() as u64));
    let (output, pieces) = mpsc::channel(QUEUE);
    let conversion = tokio::task::spawn_blocking(move || workshop.process(reader, &output));
    let ((), uploaded, converted) = tokio::join!(
        stream::pump(download, layer.descriptor.size, sender),
        write(upload, pieces),
        conversion
    );

    let (upload, uploaded) = uploaded;
    let checked = match (converted?, uploaded) {
        // Without its reader, the conversion only knows that it was interrupted.
        (Err(StreamError::Interrupted), Err(error)) => Err(failed(error.into())),
        (Err(StreamError::Corrupt { blob, .. }), _) if is_wrong(layer, blob) => Err(wrong_blob(layer, blob)),
        (Err(error), _) => Err(failed(error)),
        (Ok(_), Err(error)) => Err(failed(error.into())),
        (Ok(processed), Ok(())) => check(layer, processed),
    };
    match checked {
        Ok(processed) => {
            upload.finish(&processed.layer.digest, processed.layer.len).await?;
            Ok(processed)
        }
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

/// Uploads pieces as they come. After a failure the rest is not asked for.
async fn write(mut upload: Upload, mut pieces: mpsc::Receiver<Bytes>) -> (Upload, Result<(), PlaceError>) {
    while let Some(piece) = pieces.recv().await {
        if let Err(error) = upload.write(piece).await {
            return (upload, Err(error));
        }
    }
    (upload, Ok(()))
}

fn check(layer: &Layer, processed: Processed) -> Result<Processed, Error> {
    let descriptor = &layer.descriptor;
    if is_wrong(layer, processed.original) {
        return Err(wrong_blob(layer, processed.original));
    }
    if processed.layer.diff_id != layer.diff_id {
        let (expected, actual) = (layer.diff_id.0, processed.layer.diff_id.0);
        return Err(Error::WrongDiffId { layer: descriptor.digest, expected, actual });
    }
    Ok(processed)
}

fn is_wrong(layer: &Layer, blob: BlobRead) -> bool {
    (blob.digest, blob.len) != (layer.descriptor.digest, layer.descriptor.size)
}

fn wrong_blob(layer: &Layer, blob: BlobRead) -> Error {
    let Descriptor { digest, size, .. } = layer.descriptor;
    Error::WrongBlob { layer: digest, actual: blob.digest, len: blob.len, size }
}
