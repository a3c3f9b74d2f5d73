//! An image on disk, between one mount and the next.
//!
//! ```text
//! the image | magic "JAUNTROF" | version u32 | zero u32 | length of the image u64 | its BLAKE3 (32)
//! ```
//!
//! The kernel does not look behind the image. It is compared with the digest before every mount, so a disk may lose or
//! change it, and nothing waits for it to be synced: it is then written anew.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use memmap2::Mmap;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::devices::{DeviceFile, MAX_DEVICES};
use super::image::Image;
use super::layout::{DEVICES_OFFSET, Device, SUPER_OFFSET, SuperBlock};
use super::{ImageError, tag};

const TRAILER_MAGIC: [u8; 8] = *b"JAUNTROF";
/// Of what [`Image::write`] makes of a tree: another one is written anew.
pub const VERSION: u32 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Trailer {
    magic: [u8; 8],
    version: U32,
    zero: U32,
    len: U64,
    digest: [u8; 32],
}

/// An image that was found to be what was written.
#[derive(Debug)]
pub(super) struct KeptImage {
    pub file: File,
    pub devices: Vec<DeviceFile>,
}

/// Writes an image, whole or not at all.
pub(super) fn write(path: &Path, image: &Image) -> io::Result<()> {
    let trailer = Trailer {
        magic: TRAILER_MAGIC,
        version: U32::new(VERSION),
        zero: U32::ZERO,
        len: U64::new(image.bytes.len() as u64),
        digest: *blake3::hash(&image.bytes).as_bytes(),
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // Two snapshots of one chain have one image.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let aside = path.with_extension("new");
    let written = (|| {
        let mut file = File::create(&aside)?;
        file.write_all(&image.bytes)?;
        file.write_all(trailer.as_bytes())?;
        std::fs::rename(&aside, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// The image that is kept at `path`; none if there is none, or another version's, or a damaged one.
pub(super) fn open(path: &Path) -> io::Result<Option<KeptImage>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if file.metadata()?.len() < size_of::<Trailer>() as u64 {
        return Ok(None);
    }
    // SAFETY: images are written under another name, renamed into place, never changed after that, and lie in a
    // directory that only this program writes to.
    let bytes = unsafe { Mmap::map(&file) }?;
    match devices_of(&bytes) {
        Ok(devices) => Ok(Some(KeptImage { file, devices })),
        Err(error) => {
            tracing::warn!(image = %path.display(), %error, "a kept image is of no use: it is written anew");
            Ok(None)
        }
    }
}

/// Whether the image that is kept at `path` is what was written.
///
/// # Errors
/// The file cannot be read.
pub fn is_sound(path: &Path) -> io::Result<bool> {
    Ok(devices_of(&std::fs::read(path)?).is_ok())
}

fn devices_of(bytes: &[u8]) -> Result<Vec<DeviceFile>, ImageError> {
    let cut = ImageError::Malformed("it is cut short");
    let (image, trailer) = Trailer::read_from_suffix(bytes).map_err(|_| cut)?;
    if (trailer.magic, trailer.version.get()) != (TRAILER_MAGIC, VERSION) {
        return Err(ImageError::Malformed("it is no image of this version"));
    }
    if trailer.len.get() != image.len() as u64 || *blake3::hash(image).as_bytes() != trailer.digest {
        return Err(ImageError::Malformed("its bytes are not those that were written"));
    }
    let short = || ImageError::Malformed("it is cut short");
    let at = |offset: u64| image.get(usize::try_from(offset).unwrap_or(usize::MAX)..).ok_or_else(short);
    let (block, _) = SuperBlock::ref_from_prefix(at(SUPER_OFFSET)?).map_err(|_| short())?;
    let count = usize::from(block.devices.get());
    let table = <[Device]>::ref_from_prefix_with_elems(at(DEVICES_OFFSET)?, count.min(MAX_DEVICES));
    let (table, _) = table.map_err(|_| short())?;
    table.iter().map(|device| tag::parse(&device.tag)).collect()
}
