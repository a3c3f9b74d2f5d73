//! The same image as a complete chain: by itself and below overlayfs, with nobody to serve it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jaunt_layerfs::erofs::{self, AttachError, ErofsError};
use jaunt_layerfs::fs::{CompleteChain, LayerFs, ROOT_NAME};
use jaunt_layerfs::fuse;
use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::layers::{Layers, Settings};
use jaunt_layerfs::source::Source;
use jaunt_layerfs::store::Store;
use rustix::mount::UnmountFlags;
use tokio::runtime::Runtime;

use crate::mounted::overlay;

/// A complete chain, and its mounts below a directory; unmounted whatever happens.
pub struct Complete {
    directory: PathBuf,
    /// Held for as long as the mount lives.
    _chain: CompleteChain,
}

impl Complete {
    /// Fetches all of the image, and mounts it. `None` where this kernel cannot.
    pub fn new(
        directory: PathBuf,
        index: &Path,
        source: &Arc<dyn Source>,
        runtime: &Runtime,
    ) -> Option<Self> {
        for name in ["mnt", "upper", "work", "merged"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
        }
        let _context = runtime.enter();
        let layers =
            Layers::new(Arc::new(Store::open(&directory.join("layers")).unwrap()), Settings::default());
        let fs = chain(index, &layers, source);
        let chain = fs.hold_complete().unwrap_or_else(|| fill(&fs, runtime));
        match erofs::mount(&fs, &chain, &directory.join("image")) {
            Ok(mount) => mount.attach(&directory.join("mnt")).unwrap(),
            Err(ErofsError::Attach(AttachError::Unsupported(errno))) => {
                eprintln!("skipped: this kernel has no file-backed EROFS ({errno})");
                return None;
            }
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
        let complete = Self { directory, _chain: chain };
        overlay(&complete.direct(), &complete.directory);
        Some(complete)
    }

    pub fn direct(&self) -> PathBuf {
        self.directory.join("mnt").join(ROOT_NAME)
    }

    pub fn merged(&self) -> PathBuf {
        self.directory.join("merged")
    }
}

impl Drop for Complete {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.merged(), UnmountFlags::DETACH);
        let _ = fuse::mount::detach(&self.directory.join("mnt"));
    }
}

/// All layers of an index.
pub fn chain(index: &Path, layers: &Layers, source: &Arc<dyn Source>) -> LayerFs {
    let index = open_index(index).unwrap();
    let count = u16::try_from(index.layers().len()).unwrap();
    LayerFs::new(index, count, "test".to_owned(), layers, std::slice::from_ref(source)).unwrap()
}

/// Fetches everything, and holds it.
pub fn fill(fs: &LayerFs, runtime: &Runtime) -> CompleteChain {
    for layer in fs.layers() {
        let tar_len = layer.launch().tar_len;
        for start in (0..tar_len).step_by(4 << 20) {
            runtime.block_on(layer.read(start..tar_len.min(start + (4 << 20)))).unwrap();
        }
        layer.file().mark_complete().unwrap();
    }
    fs.hold_complete().unwrap()
}
