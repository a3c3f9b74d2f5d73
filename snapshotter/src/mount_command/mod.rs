//! `mount` and `umount`: an image as a file system, without containerd.
//!
//! One process in the foreground mounts and serves. It finds the image's launch index as the daemon does
//! ([`crate::resolve`]) and promises as much: the index's diffIDs hash to the chain that the image's own
//! configuration names. A signal unmounts, once the mount is out of use; a second one does not wait for that.
//!
//! Invariant: killed with SIGKILL, the process leaves a mount on which every access fails; `umount` removes it.

mod point;
mod serve;
mod state;
mod stop;

use std::path::PathBuf;
use std::sync::Arc;

use jaunt_distribution::Client;
use jaunt_formats::{Platform, Reference};
use jaunt_layerfs::layers::{self, Layers};
use jaunt_layerfs::store::{Store, StoreError};

use crate::boot::BootPacks;
use crate::config::{BootConfig, Config, ConfigError, RegistryFlags, Settings};
use crate::daemon;
use crate::fallback::{Fallback, FallbackCode};
use crate::index_store::IndexStore;
use crate::metastore::MetaStore;
use crate::resolve::{Resolve as _, ResolveLimits, Resolver};

pub use point::{PointError, umount};
pub use serve::ServeError;
pub use state::StateError;

use crate::image::{self, ImageError};
use serve::Served;
use state::StateDirectory;
use stop::Stop;

/// What to mount, and where.
#[derive(Debug, clap::Args)]
pub struct MountArgs {
    /// The image
    #[arg(value_name = "REF")]
    image: Reference,
    /// An empty directory; the image's root appears there
    #[arg(value_name = "DIR")]
    point: PathBuf,
    /// Where fetched content is kept [default: $XDG_CACHE_HOME/jaunt or /var/cache/jaunt; while another mount uses
    /// that, a temporary directory]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Which image of a multi-platform one: os/arch or os/arch/variant [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Configuration file, of which what it says of registries and of reading counts [default:
    /// /etc/jaunt/snapshotter.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long a read waits for registries in trouble before it is an error [default: 30]
    #[arg(long, value_name = "SECONDS")]
    read_deadline: Option<u64>,
    /// Fetch the rest of the image as well, while nobody reads, and check all of it
    #[arg(long)]
    complete: bool,
    #[command(flatten)]
    registries: RegistryFlags,
}

/// What to unmount.
#[derive(Debug, clap::Args)]
pub struct UmountArgs {
    /// Where `mount` has put the image
    #[arg(value_name = "DIR")]
    pub point: PathBuf,
}

/// Why an image is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountCommandError {
    /// Not a place to mount on.
    #[error(transparent)]
    Point(#[from] PointError),
    /// Content has nowhere to go.
    #[error(transparent)]
    State(#[from] StateError),
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Signals.
    #[error("cannot catch signals")]
    Signals(#[source] std::io::Error),
    /// Told to stop before there was a mount.
    #[error("interrupted before anything was mounted")]
    Interrupted,
    /// The directory for content.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry client.
    #[error("registry client")]
    Client(#[source] jaunt_distribution::Error),
    /// The reference leads to no image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Nothing tells how to read it lazily.
    #[error(
        "{image} cannot be mounted lazily: {detail}; convert it with `jaunt-proxy convert {image}` and try again"
    )]
    NotConverted {
        /// The image.
        image: String,
        /// What was looked for.
        detail: String,
    },
    /// Its launch index cannot be had.
    #[error("{image} cannot be mounted lazily ({code}): {detail}", code = code.as_str())]
    NotLazy {
        /// The image.
        image: String,
        /// Which of the reasons that `status` shows as well.
        code: FallbackCode,
        /// In words.
        detail: String,
    },
    /// The file system cannot be made or served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Mounts, serves until told to stop, unmounts.
///
/// # Errors
/// The image cannot be mounted, or was in use when a second signal came.
pub async fn mount(args: MountArgs) -> Result<(), MountCommandError> {
    jaunt_layerfs::fuse::spare_buffers();
    let mut stop = Stop::new().map_err(MountCommandError::Signals)?;
    let point = point::check(&args.point)?;
    let state = StateDirectory::open(args.root.as_deref())?;
    let served = tokio::select! {
        served = prepare(&args, &state, point) => served?,
        () = stop.come() => return Err(MountCommandError::Interrupted),
    };
    Ok(served.run(&mut stop).await?)
}

/// Looks the image up and makes sure of its launch index.
async fn prepare(
    args: &MountArgs,
    state: &StateDirectory,
    point: PathBuf,
) -> Result<Served, MountCommandError> {
    let config = config(args)?;
    let client = Client::new(config.client(daemon::patience())).map_err(MountCommandError::Client)?;
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let layer = image::topmost_layer(&client, &args.image, &platform).await?;
    println!("{}: {platform}, manifest {}", args.image, layer.manifest);

    let path = state.path();
    let indexes = IndexStore::open(path).map_err(|source| state.error("keep launch indexes", source))?;
    let records =
        MetaStore::open(&path.join("meta.redb")).map_err(|source| state.error("keep records", source))?;
    let trust = config.trust().map_err(ConfigError::from)?;
    let resolver = Resolver::new(client.clone(), records.clone(), indexes.clone(), ResolveLimits::default());
    // Nothing of what reads an image here says what its starts touch.
    let boot = BootConfig { keep_traces: 0, ..config.boot.clone() };
    let store = Arc::new(Store::open(&path.join("layers"))?.with_cap(config.store.cap()));
    let layers = Layers::new(store, layers::Settings { background_limit: None, ..daemon::reading(&config) });
    let packs = BootPacks::open(path, layers.clone(), boot)
        .map_err(|source| state.error("keep boot packs", source))?;
    let resolver = resolver.with_trust(trust).with_packs(packs.clone());
    let resolved = resolver.layer(&layer).await.map_err(|fallback| not_lazy(&args.image, fallback))?;
    let (pin, learnt) = resolved.learnt;
    records.learn(pin, learnt).await.map_err(|source| state.error("keep records", source))?;
    Ok(Served {
        name: args.image.to_string(),
        index: indexes.path(&resolved.index),
        digest: resolved.index,
        prefix: resolved.prefix,
        layers,
        packs,
        client,
        repositories: records.sources(&resolved.index).into_iter().collect(),
        point,
        complete: args.complete,
    })
}

fn not_lazy(image: &Reference, fallback: Fallback) -> MountCommandError {
    let (image, detail) = (image.to_string(), fallback.detail);
    match fallback.code {
        FallbackCode::NoLaunchArtifact => MountCommandError::NotConverted { image, detail },
        code => MountCommandError::NotLazy { image, code, detail },
    }
}

fn config(args: &MountArgs) -> Result<Config, ConfigError> {
    let settings = args.registries.clone().over(Settings::read(args.config.as_deref())?);
    let flags = Settings { read_deadline_seconds: args.read_deadline, ..Settings::default() };
    Ok(settings.with_flags(flags).complete())
}
