//! An image mounted for real, by itself and below overlayfs as a container has it: lazily, and as a complete chain.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jaunt_layerfs::fs::{LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse::{self, Adapter, MountOptions, SessionHandle};
use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::source::{MemorySource, Source};
use jaunt_layerfs::store::Store;
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::runtime::Runtime;

use crate::complete::Complete;
use crate::fixture::Image;

/// Whether mounting is possible; says so if not.
pub fn can_mount() -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !able {
        eprintln!("skipped: mounting needs root and /dev/fuse");
    }
    able
}

/// A mounted image; unmounted whatever happens.
pub struct Mounted {
    directory: tempfile::TempDir,
    runtime: Runtime,
    session: Option<SessionHandle>,
    fs: Option<Arc<LayerFs>>,
    complete: Option<Complete>,
    /// Whether there is to be a complete one as well.
    both_ways: bool,
    layers: u16,
    source: Arc<dyn Source>,
}

impl Mounted {
    /// Mounts all of the image.
    pub fn new(image: Image) -> Self {
        Self::with(image, &MountOptions::default())
    }

    /// The same, in another way.
    pub fn with(image: Image, options: &MountOptions) -> Self {
        let (index, source) = parts(image);
        Self::of(index, source, options)
    }

    /// An image that no complete chain can show (erofs::ImageError::Unfit).
    pub fn lazily(image: Image) -> Self {
        let (index, source) = parts(image);
        Self::made(index, source, &MountOptions::default(), false)
    }

    /// An index, of so many layers, whose content comes from `source`.
    pub fn of(index: (Vec<u8>, u16), source: Arc<dyn Source>, options: &MountOptions) -> Self {
        Self::made(index, source, options, true)
    }

    fn made(
        (index, layers): (Vec<u8>, u16),
        source: Arc<dyn Source>,
        options: &MountOptions,
        both_ways: bool,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("index"), index).unwrap();
        for name in ["mnt", "upper", "work", "merged"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        // Every user of a test looks into the mount.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut mounted = Self {
            directory,
            runtime: runtime.unwrap(),
            session: None,
            fs: None,
            complete: None,
            both_ways,
            layers,
            source,
        };
        mounted.mount(options);
        mounted
    }

    /// The image's root, as FUSE shows it.
    pub fn direct(&self) -> PathBuf {
        self.path("mnt").join(ROOT_NAME)
    }

    /// The image's root below overlayfs, as a container sees it; writable.
    pub fn merged(&self) -> PathBuf {
        self.path("merged")
    }

    /// The lazy ones.
    pub fn lazy_roots(&self) -> [PathBuf; 2] {
        [self.direct(), self.merged()]
    }

    /// Those of the complete chain, by itself and below overlayfs; none where it cannot be mounted.
    pub fn complete_roots(&self) -> Vec<PathBuf> {
        self.complete.iter().flat_map(|complete| [complete.direct(), complete.merged()]).collect()
    }

    /// All of them.
    pub fn roots(&self) -> Vec<PathBuf> {
        [self.lazy_roots().to_vec(), self.complete_roots()].concat()
    }

    /// What the lazy ones show.
    pub fn fs(&self) -> &LayerFs {
        self.fs.as_ref().unwrap()
    }

    /// A path beside the mounts, on an ordinary disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Everything unmounted and mounted again, as after a restart of the machine.
    pub fn again(&mut self) {
        self.unmount();
        self.mount(&MountOptions::default());
    }

    fn mount(&mut self, options: &MountOptions) {
        let layers = Layers::new(Arc::new(Store::open(&self.path("layers")).unwrap()), Settings::default());
        let index = open_index(&self.path("index")).unwrap();
        let fs = {
            let _context = self.runtime.enter();
            LayerFs::new(index, self.layers, "test".to_owned(), &layers, std::slice::from_ref(&self.source))
                .unwrap()
        };
        let mounted = fuse::mount::mount(&self.path("mnt"), options).unwrap();
        let fs = self.fs.insert(Arc::new(fs));
        let adapter = Adapter::new(fs.clone(), self.runtime.handle().clone());
        self.session = Some(fuse::serve(adapter, mounted.device, &mounted.negotiated, 2).unwrap());
        overlay(&self.direct(), &self.path(""));
        if self.both_ways {
            let (path, index) = (self.path("complete"), self.path("index"));
            self.complete = Complete::new(path, &index, &self.source, &self.runtime);
        }
    }

    fn unmount(&mut self) {
        (self.complete, self.fs) = (None, None);
        let _ = rustix::mount::unmount(self.merged(), UnmountFlags::DETACH);
        let _ = fuse::mount::detach(&self.path("mnt"));
        if let Some(session) = self.session.take().filter(|_| !std::thread::panicking()) {
            session.join().unwrap();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// An image's index with the number of its layers, and where its content comes from.
fn parts(image: Image) -> ((Vec<u8>, u16), Arc<dyn Source>) {
    let blobs = image.blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into()));
    ((image.index, image.layers), Arc::new(MemorySource::new(blobs)))
}

/// Mounts overlayfs as containers have it: `upper` and `work` are in a directory, and `merged` is the mount.
pub fn overlay(lower: &Path, directory: &Path) {
    let name = |name: &str| directory.join(name).display().to_string();
    let options = format!(
        "index=off,xino=on,lowerdir={},upperdir={},workdir={}",
        lower.display(),
        name("upper"),
        name("work")
    );
    let options = CString::new(options).unwrap();
    let (options, flags) = (options.as_c_str(), MountFlags::empty());
    rustix::mount::mount("overlay", directory.join("merged"), "overlay", flags, options).unwrap();
}
