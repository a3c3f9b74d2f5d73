//! `materialise`: asks the daemon, and shows how far it is.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use crate::proto::jaunt::originals::v1::originals_client::OriginalsClient;
use crate::proto::jaunt::originals::v1::{MaterialiseRequest, Progress};
use crate::unix_channel::{self, Unreachable};

/// What to bring where.
#[derive(Clone, Debug)]
pub struct Request {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// containerd's socket; `None`: the one in the daemon's configuration.
    pub containerd: Option<PathBuf>,
    /// containerd's namespace.
    pub namespace: String,
    /// The image's name there.
    pub image: String,
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub enum MaterialiseError {
    /// The daemon does not run, or listens elsewhere.
    #[error("the daemon is {0}")]
    Unreachable(#[source] Unreachable),
    /// It failed, and said why.
    #[error("{image}: {}", status.message())]
    Failed {
        /// The image.
        image: String,
        /// The daemon's words.
        status: Box<tonic::Status>,
    },
}

/// Brings an image's originals, printing progress; returns what it came to in one line.
pub async fn run(request: &Request) -> Result<String, MaterialiseError> {
    let failed = |status| MaterialiseError::Failed { image: request.image.clone(), status: Box::new(status) };
    let channel = unix_channel::connect(&request.socket).await.map_err(MaterialiseError::Unreachable)?;
    let message = MaterialiseRequest {
        containerd: request.containerd.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        namespace: request.namespace.clone(),
        image: request.image.clone(),
    };
    let mut stream = OriginalsClient::new(channel).materialise(message).await.map_err(failed)?.into_inner();
    let mut last = Progress::default();
    while let Some(progress) = stream.message().await.map_err(failed)? {
        show(&last, &progress);
        last = progress;
    }
    Ok(match last.layers {
        0 => format!("{}: all original layers are in containerd's content store", request.image),
        layers => format!(
            "{}: brought {layers} original layers, {} MB, to containerd's content store",
            request.image,
            megabytes(last.bytes)
        ),
    })
}

/// On a terminal a line that changes, else a line a layer.
fn show(last: &Progress, now: &Progress) {
    let line = format!(
        "{} of {} layers, {} of {} MB",
        now.layers_done,
        now.layers,
        megabytes(now.bytes_done),
        megabytes(now.bytes)
    );
    if std::io::stdout().is_terminal() {
        let end = if now.layers_done == now.layers { "\n" } else { "" };
        print!("\r{line}{end}");
        // Progress that cannot be shown is no failure.
        let _ = std::io::stdout().flush();
    } else if now.layers_done > last.layers_done {
        println!("{line}");
    }
}

/// One decimal, in millions of bytes.
fn megabytes(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10)
}
