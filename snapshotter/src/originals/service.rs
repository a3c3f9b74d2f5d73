//! The daemon's side of `materialise`.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{Originals, OriginalsError, Progress};
use crate::fallback::error_chain;
use crate::proto::jaunt::originals::v1 as api;
use crate::proto::jaunt::originals::v1::originals_server::Originals as Service;

/// Serves [`Originals`].
pub struct OriginalsService(pub Arc<Originals>);

#[tonic::async_trait]
impl Service for OriginalsService {
    type MaterialiseStream = ReceiverStream<Result<api::Progress, Status>>;

    async fn materialise(
        &self,
        request: Request<api::MaterialiseRequest>,
    ) -> Result<Response<Self::MaterialiseStream>, Status> {
        let api::MaterialiseRequest { containerd, namespace, image } = request.into_inner();
        let originals = self.0.clone();
        let (send, receive) = mpsc::channel(16);
        tokio::spawn(async move {
            let socket = (!containerd.is_empty()).then(|| PathBuf::from(containerd));
            // Who reads slowly misses some, and no more: the last is waited for.
            let mut told = |progress| drop(send.try_send(Ok(encode(progress))));
            let brought = originals.materialise(socket.as_deref(), &namespace, &image, &mut told);
            let done = tokio::select! {
                done = brought => done,
                () = send.closed() => return,
            };
            let last = done.map(encode).map_err(|error| failed(&image, &error));
            let _ = send.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

fn encode(progress: Progress) -> api::Progress {
    let count = |layers| u32::try_from(layers).unwrap_or(u32::MAX);
    api::Progress {
        layers_done: count(progress.layers_done),
        layers: count(progress.layers),
        bytes_done: progress.bytes_done,
        bytes: progress.bytes,
    }
}

fn failed(image: &str, error: &OriginalsError) -> Status {
    let message = error_chain(error);
    tracing::warn!(image, error = message, "original blobs could not be brought");
    let code = match error {
        OriginalsError::Unreachable(_) => Code::Unavailable,
        OriginalsError::NoImage { .. } | OriginalsError::Gone { .. } | OriginalsError::NoSource(_) => {
            Code::NotFound
        }
        _ => Code::Unknown,
    };
    Status::new(code, message)
}
