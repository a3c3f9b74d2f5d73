//! `pull`: has containerd pull an image through this snapshotter, and says how much of it is lazy.
//!
//! `ctr` passes no image labels on, so it cannot pull lazily. Two ways do: the transfer service, where
//! the proxy plugin exports `enable_remote_snapshot_annotations` (containerd 2.1 and later), and CRI.

mod chain;
mod containerd;
mod credentials;
mod cri;
mod report;
mod transfer;

use std::path::{Path, PathBuf};
use std::time::Instant;

use jaunt_formats::Reference;

use crate::fallback::error_chain;
use crate::status::{self, image_of_chain};
use crate::unix_channel::{self, Unreachable, in_namespace};
use containerd::Containerd;
pub use containerd::Way;
pub use report::Pulled;

/// What to pull, and through what.
#[derive(Clone, Debug)]
pub struct Request {
    /// containerd's socket.
    pub address: PathBuf,
    /// containerd's namespace.
    pub namespace: String,
    /// The name that containerd's configuration gives this snapshotter.
    pub snapshotter: String,
    /// The image.
    pub image: Reference,
    /// The daemon's socket, where containerd does not know it.
    pub socket: PathBuf,
    /// The socket for CRI's image calls, where it is another than containerd's.
    pub cri_address: Option<PathBuf>,
    /// The way to pull; none leaves the choice to what this containerd can do.
    pub through: Option<Way>,
    /// Directory of the registries' `hosts.toml`, as containerd sees it. The transfer service asks its
    /// client for it: containerd's own setting of that name is read by nothing.
    pub hosts_dir: PathBuf,
    /// Takes a line of progress.
    pub progress: fn(&str),
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// containerd does not run there.
    #[error("containerd is {0}")]
    Unreachable(#[source] Unreachable),
    /// Nobody takes image calls there.
    #[error("CRI's image service is {0}")]
    CriUnreachable(#[source] Unreachable),
    /// containerd refuses a call.
    #[error("containerd at {address}: {what}: {}", status.message(), address = .address.display())]
    Refused {
        /// Its socket.
        address: PathBuf,
        /// What was asked.
        what: &'static str,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// No proxy plugin of that name.
    #[error(
        "containerd at {address} has no snapshotter {snapshotter:?}; add to its configuration and restart it:\n\n\
         [proxy_plugins.{snapshotter}]\n  type = \"snapshot\"\n  address = \"{socket}\"\n",
        address = .address.display(), socket = .socket.display()
    )]
    NotConfigured {
        /// containerd's socket.
        address: PathBuf,
        /// The name looked for.
        snapshotter: String,
        /// Our socket.
        socket: PathBuf,
    },
    /// The plugin is there and does not work.
    #[error("containerd's plugin {plugin} does not work: {message}")]
    Plugin {
        /// Its name.
        plugin: String,
        /// containerd's words.
        message: String,
    },
    /// containerd knows the snapshotter, but not as one to unpack images for.
    #[error("containerd at {address} does not unpack images for snapshotter {snapshotter:?}: {hint}", address = .address.display())]
    NotUnpacked {
        /// Its socket.
        address: PathBuf,
        /// The snapshotter's name.
        snapshotter: String,
        /// What to configure.
        hint: &'static str,
    },
    /// Nothing passes image labels on.
    #[error(
        "containerd {version} offers no lazy pull in namespace {namespace:?}: its CRI plugin pulls into k8s.io only, \
         and its transfer service passes image labels on from 2.1, with `[proxy_plugins.{snapshotter}.exports] \
         enable_remote_snapshot_annotations = \"true\"`"
    )]
    NoWay {
        /// containerd's version.
        version: String,
        /// The namespace asked for.
        namespace: String,
        /// The snapshotter's name.
        snapshotter: String,
    },
    /// Pulled, but by another snapshotter.
    #[error("{image} was pulled, but not through snapshotter {snapshotter:?}: {hint}")]
    Elsewhere {
        /// The image.
        image: String,
        /// The snapshotter that should have been used.
        snapshotter: String,
        /// What to configure.
        hint: &'static str,
    },
}

/// Pulls, telling progress; returns what it came to.
pub async fn run(request: &Request) -> Result<Pulled, PullError> {
    let channel = unix_channel::connect(&request.address).await.map_err(PullError::Unreachable)?;
    let containerd = Containerd::inspect(channel, request).await?;
    let way = containerd.way(request)?;
    let socket = containerd.snapshotter_socket.clone().unwrap_or_else(|| request.socket.clone());
    (request.progress)(&format!("pulling {} through containerd's {}", request.image, way.name()));
    let started = Instant::now();
    match way {
        Way::Transfer => transfer::pull(&containerd, request).await,
        Way::Cri => cri::pull(&containerd, request, &socket).await,
    }?;
    let took = started.elapsed();
    let elsewhere = || PullError::Elsewhere {
        image: request.image.to_string(),
        snapshotter: request.snapshotter.clone(),
        hint: way.hint(),
    };
    let chain = chain::of_image(&containerd, request).await?.ok_or_else(elsewhere)?;
    let name = request.image.to_string();
    let became = match status::fetch(&socket).await {
        Ok(status) => Ok(image_of_chain(&status, &name, &chain).ok_or_else(elsewhere)?),
        Err(error) => Err(error_chain(&error)),
    };
    Ok(Pulled { name, way, took, became })
}

fn refused<'a>(address: &'a Path, what: &'static str) -> impl FnOnce(tonic::Status) -> PullError + 'a {
    move |status| PullError::Refused { address: address.to_owned(), what, status: Box::new(status) }
}
