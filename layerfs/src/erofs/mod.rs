//! Chains of which everything is local, as EROFS: the kernel reads the store's files by itself, and nobody serves.
//!
//! ```text
//! launch index --write--> image of the metadata --+
//!                                                 +--> mount      (Linux 6.12)
//! store: packed and large files, held complete ---+
//! ```
//!
//! An image holds names and attributes, and says in which file of the store and from which block each content lies. What
//! it cannot say (see [`ImageError::Unfit`]) is served by FUSE as before.

mod devices;
mod directory;
mod image;
mod kept;
mod layout;
mod mount;
mod numbers;
mod plan;
mod tag;
mod xattrs;

use std::io;
use std::path::{Path, PathBuf};

use jaunt_formats::launch::LaunchError;

pub use devices::DeviceFile;
pub use image::Image;
pub use kept::{VERSION as IMAGE_VERSION, is_sound};
pub use mount::{AttachError, Detached, FS_TYPE, is_mounted_on};
pub(crate) use numbers::{Nid, Numbers};

use crate::fs::{CompleteChain, LayerFs};
use crate::store::LargeFiles;

/// Why a tree has no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The launch index is not sound.
    #[error("the launch index is malformed: {0}")]
    Malformed(&'static str),
    /// The same, found by its reader.
    #[error(transparent)]
    Index(#[from] LaunchError),
    /// The tree has something that an image cannot say.
    #[error("not possible as EROFS: {0}")]
    Unfit(&'static str),
}

/// Why a chain is not mounted as EROFS.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// It has no image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image cannot be kept, or a file of the store not be opened.
    #[error("{}", path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the store is not there.
    #[error("the store has no file for a part of the content")]
    Missing,
    /// The kernel does not take it.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// Mounts a complete chain, by the image that is kept at `path` or a new one that is then kept there. The mount has no place
/// yet ([`Detached::attach`]). The chain should be held for as long as the mount lives.
///
/// # Errors
/// The chain cannot be EROFS, the kernel cannot mount it, or the disk fails.
pub fn mount(fs: &LayerFs, chain: &CompleteChain, path: &Path) -> Result<Detached, ErofsError> {
    let io = |source| ErofsError::Io { path: path.to_owned(), source };
    let kept = match kept::open(path).map_err(io)? {
        Some(kept) => kept,
        None => {
            let (index, prefix, place) = fs.tree();
            let image = Image::write(index, prefix, place, &LargeFiles::of_layers(index))?;
            kept::write(path, &image).map_err(io)?;
            kept::open(path).map_err(io)?.ok_or_else(|| io(io::ErrorKind::InvalidData.into()))?
        }
    };
    let open = |device: &DeviceFile| {
        let file = chain.blocks(device.layer, device.large.as_ref(), device.len).map_err(io)?;
        file.ok_or(ErofsError::Missing)
    };
    let devices = kept.devices.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    Ok(Detached::new(&kept.file, &devices)?)
}
