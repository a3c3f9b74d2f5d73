//! The life of one mount: made, served, ended by a signal or by umount(8).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jaunt_distribution::{Client, Repository};
use jaunt_formats::Digest;
use jaunt_layerfs::completion::{self, Completion};
use jaunt_layerfs::fs::{FsError, LayerFs, RootPlace};
use jaunt_layerfs::fuse::mount::{self, DetachOnDrop, UnmountError};
use jaunt_layerfs::fuse::{self, Adapter, BackingIds, MountError, MountOptions, SessionError, SessionHandle};
use jaunt_layerfs::index_file::{IndexFileError, open_index};
use jaunt_layerfs::layers::Layers;
use jaunt_layerfs::source::{RegistrySource, Source};

use super::stop::Stop;
use crate::boot::{BootPacks, Start};
use crate::mounts::THREADS;
use crate::passthrough;
use crate::upkeep::upkeep_alone;

/// How often a mount that was in use is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Who asks for the rest of an image waits for it.
const AT_ONCE: completion::Settings = completion::Settings { delay: Duration::ZERO };

/// Why an image cannot be mounted or served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its launch index.
    #[error(transparent)]
    Index(#[from] IndexFileError),
    /// The tree in it.
    #[error("the image's tree")]
    Tree(#[from] FsError),
    /// The index was found to lie about its layers.
    #[error("launch index {index} is in quarantine: {why}")]
    Quarantined {
        /// The index.
        index: Digest,
        /// What was found.
        why: Arc<str>,
    },
    /// mount(2).
    #[error(transparent)]
    Mount(#[from] MountError),
    /// FUSE.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The connection to the kernel broke.
    #[error("the mount on {} broke", point.display())]
    Broken {
        /// The mount point.
        point: PathBuf,
        /// What the device said.
        #[source]
        source: std::io::Error,
    },
    /// umount(2).
    #[error(transparent)]
    Unmount(#[from] UnmountError),
    /// Its users have lost it.
    #[error("ended by a second signal; {} was in use and is broken for its users", .0.display())]
    Abandoned(PathBuf),
}

/// What is served, and where.
pub(super) struct Served {
    pub name: String,
    pub index: PathBuf,
    pub digest: Digest,
    pub prefix: u16,
    pub layers: Layers,
    pub packs: Arc<BootPacks>,
    pub client: Client,
    pub repositories: Vec<Repository>,
    pub point: PathBuf,
    /// Whether the rest is fetched while nobody reads.
    pub complete: bool,
}

impl Served {
    /// Mounts, and returns when the mount is out of use.
    pub(super) async fn run(self, stop: &mut Stop) -> Result<(), ServeError> {
        let store = self.layers.store().clone();
        if let Some(why) = store.quarantined_index(&self.digest) {
            return Err(ServeError::Quarantined { index: self.digest, why });
        }
        let source = |repository| Arc::new(RegistrySource::new(self.client.clone(), repository)) as _;
        let sources: Vec<Arc<dyn Source>> = self.repositories.into_iter().map(source).collect();
        let index = open_index(&self.index)?;
        let boot = self.packs.of(&self.digest, &index);
        let fs = LayerFs::new(index, self.prefix, self.name, &self.layers, &sources)?;
        let fs = Arc::new(fs.with_root(RootPlace::AtMount).with_boot(boot));
        let complete = fs.hold_checked(&store, &self.digest);
        let completion = self.complete.then(|| Completion::new(store, AT_ONCE));
        completion.iter().for_each(|completion| completion.add(&fs, self.digest));
        let passthrough = passthrough::suits(&fs, complete.as_ref());
        let options = MountOptions { posix_acl: fs.has_acls(), passthrough, ..MountOptions::default() };
        let mounted = mount::mount(&self.point, &options)?;
        let armed = DetachOnDrop::new(&self.point);
        if complete.is_none() {
            // Nothing is pushed here. Before anybody can open a file, for which it holds from then on.
            self.packs.start_as_learnt(&fs, &self.point).into_iter().for_each(Start::begin);
        }
        let mut adapter = Adapter::new(fs.clone(), tokio::runtime::Handle::current());
        if mounted.negotiated.has_passthrough() {
            // Nobody takes over from this process, so nothing needs to be recorded.
            adapter = adapter.with_passthrough(complete, BackingIds::default());
        }
        let session = fuse::serve(adapter, mounted.device, &mounted.negotiated, THREADS)?;
        tokio::spawn(upkeep_alone(self.layers.store().clone()));
        println!("mounted on {}; Ctrl-C or `jaunt-snapshotter umount` ends it", self.point.display());
        let ended = until_end(&self.point, session, stop).await;
        armed.disarm();
        ended
    }
}

async fn until_end(point: &Path, session: SessionHandle, stop: &mut Stop) -> Result<(), ServeError> {
    let mut ended = tokio::task::spawn_blocking(move || session.join());
    let mut asked = false;
    loop {
        let again = async {
            match asked {
                true => tokio::time::sleep(TRY_AGAIN).await,
                false => std::future::pending().await,
            }
        };
        let signalled = tokio::select! {
            outcome = &mut ended => {
                let outcome = outcome.map_err(std::io::Error::other).flatten();
                return outcome.map_err(|source| ServeError::Broken { point: point.to_owned(), source });
            }
            () = stop.come() => true,
            () = again => false,
        };
        if signalled && asked {
            let _ = mount::abort(point);
            return Err(ServeError::Abandoned(point.to_owned()));
        }
        match mount::unmount(point) {
            // The session ends with the last user: an overlayfs on top keeps the file system.
            Ok(()) | Err(UnmountError::NotMounted(_)) => {}
            Err(UnmountError::Busy(_)) if asked => {}
            Err(UnmountError::Busy(_)) => {
                println!(
                    "{} is in use; it is unmounted once it is not, or broken by a second signal",
                    point.display()
                );
            }
            Err(error) => return Err(error.into()),
        }
        asked = true;
    }
}
