//! Writes a tree's image: pure, and the same bytes for the same tree.
//!
//! The kernel parses what is written here, and the index that it is written from came over the network. So nothing of it is
//! passed on unseen: names, order, targets, places of content and counts are checked again on the way.

use jaunt_formats::Timestamp;
use jaunt_formats::launch::{Attributes, InodeId, InodeType, LaunchIndex};
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U16, U32, U64};

use super::devices::{DeviceFile, Devices};
use super::directory::{self, Name};
use super::layout::{
    BLOCK, BLOCK_BITS, CHUNK_INDEXES, CHUNKED_FILE, COMPATIBLE, Chunk, DEVICE_LEN, DEVICE_TABLE,
    DEVICES_OFFSET, DataLayout, Device, INODE_LEN, Inode, MAGIC, SLOT, SUPER_OFFSET, SuperBlock,
};
use super::plan::{Form, Node, Plan};
use super::{ImageError, tag, xattrs};
use crate::fs::RootPlace;
use crate::store::LargeFiles;

/// An image, and the files that its content lies in.
#[derive(Debug)]
pub struct Image {
    /// The image: whole blocks.
    pub bytes: Vec<u8>,
    /// The devices beside it, in order.
    pub devices: Vec<DeviceFile>,
}

impl Image {
    /// The image of an index's first `prefix` layers, of which `large` are the large files.
    ///
    /// # Errors
    /// The index is malformed, or holds something that an image cannot say.
    pub fn write<B: AsRef<[u8]>>(
        index: &LaunchIndex<B>,
        prefix: u16,
        place: RootPlace,
        large: &[LargeFiles],
    ) -> Result<Self, ImageError> {
        let layers = index.layers().iter().zip(large).take(prefix.into());
        let layers: Vec<_> = layers.map(|(layer, large)| (layer.tar_len, large.clone())).collect();
        let plan = Plan::new(index, prefix, place == RootPlace::Below, Devices::new(&layers))?;
        let mut writer = Writer::new(plan)?;
        for node in 0..writer.plan.nodes.len() {
            writer.node(node)?;
        }
        writer.devices();
        writer.super_block(uuid(index, prefix))?;
        Ok(Self { bytes: writer.bytes, devices: writer.plan.devices.files().to_vec() })
    }
}

struct Writer<'i, 'l, B> {
    plan: Plan<'i, 'l, B>,
    bytes: Vec<u8>,
    /// Where inodes are counted from.
    base: u64,
    /// Where the blocks behind the inodes are.
    data: u64,
}

impl<'i, 'l, B: AsRef<[u8]>> Writer<'i, 'l, B> {
    fn new(plan: Plan<'i, 'l, B>) -> Result<Self, ImageError> {
        let devices = plan.devices.files().len() as u64;
        let base = (DEVICES_OFFSET + devices * DEVICE_LEN).next_multiple_of(BLOCK);
        let data = (base + plan.end).next_multiple_of(BLOCK);
        let len =
            usize::try_from(data + plan.blocks * BLOCK).map_err(|_| ImageError::Unfit("too large a tree"))?;
        Ok(Self { plan, bytes: vec![0; len], base, data })
    }

    fn nid(&self, node: usize) -> u64 {
        self.plan.nodes.get(node).map_or(0, |node| node.at / SLOT)
    }

    fn node(&mut self, number: usize) -> Result<(), ImageError> {
        let Node { inode, at, xattr_len, form, .. } = self.plan.nodes[number];
        let attributes = match inode {
            Some(inode) => self.plan.index.attributes(inode)?,
            None => HOLDER,
        };
        let (xattrs, content) = match inode {
            Some(inode) => {
                (xattrs::encode(&self.plan.index.xattrs(inode)?)?, self.content(number, inode, &attributes)?)
            }
            None => (Vec::new(), self.directory(number)?),
        };
        let (layout, data, size) = self.data(&attributes, form, inode)?;
        let record = record(&attributes, layout, data, size, xattrs::units(xattr_len), at / SLOT)?;
        let at = self.base + at;
        self.put(at, record.as_bytes());
        self.put(at + INODE_LEN, &xattrs);
        let behind = at + INODE_LEN + xattr_len;
        match form {
            Form::Nowhere => {}
            Form::Chunks => self.put(behind.next_multiple_of(8), &content),
            Form::Inline { .. } => self.put(behind, &content),
            Form::Blocks { first, .. } => self.put(self.data + first * BLOCK, &content),
        }
        Ok(())
    }

    /// What lies in the image of a node's content.
    fn content(
        &mut self,
        number: usize,
        inode: InodeId,
        attributes: &Attributes,
    ) -> Result<Vec<u8>, ImageError> {
        match attributes.kind {
            InodeType::Directory => self.directory(number),
            InodeType::Symlink => Ok(self.plan.index.symlink_target(inode)?.to_vec()),
            InodeType::Regular if attributes.size > 0 => {
                let content = self.plan.content(inode)?;
                let chunks = self.plan.devices.chunks(&content)?;
                let record = |&(device, block): &(u16, u32)| Chunk {
                    zero: U16::ZERO,
                    device: U16::new(device),
                    block: U32::new(block),
                };
                Ok(chunks.list.iter().flat_map(|chunk| record(chunk).as_bytes().to_vec()).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn directory(&self, number: usize) -> Result<Vec<u8>, ImageError> {
        let names = self.plan.names(number)?;
        let names = names
            .iter()
            .map(|&(name, node)| Ok(Name { name, nid: self.nid(node), file_type: self.file_type(node)? }));
        let names = names.collect::<Result<Vec<_>, ImageError>>()?;
        let len = match self.plan.nodes[number].form {
            Form::Inline { len } | Form::Blocks { len, .. } => len,
            Form::Nowhere | Form::Chunks => 0,
        };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        directory::write(&names, &mut bytes);
        Ok(bytes)
    }

    fn file_type(&self, node: usize) -> Result<u8, ImageError> {
        let Some(inode) = self.plan.nodes.get(node).and_then(|node| node.inode) else { return Ok(2) };
        Ok(match self.plan.index.attributes(inode)?.kind {
            InodeType::Regular => 1,
            InodeType::Directory => 2,
            InodeType::CharDevice { .. } => 3,
            InodeType::BlockDevice { .. } => 4,
            InodeType::Fifo => 5,
            InodeType::Symlink => 7,
        })
    }

    /// How content is found, what the inode says of where, and its size.
    fn data(
        &mut self,
        attributes: &Attributes,
        form: Form,
        inode: Option<InodeId>,
    ) -> Result<(DataLayout, u32, u64), ImageError> {
        Ok(match (attributes.kind, form, inode) {
            (InodeType::CharDevice { major, minor } | InodeType::BlockDevice { major, minor }, _, _) => {
                (DataLayout::Blocks, device_number(major, minor)?, 0)
            }
            (_, Form::Chunks, Some(inode)) => {
                let bits = self.plan.devices.chunks(&self.plan.content(inode)?)?.bits;
                (DataLayout::Chunks, CHUNK_INDEXES | u32::from(bits), attributes.size)
            }
            (_, Form::Inline { len }, _) => (DataLayout::Inline, 0, len),
            (_, Form::Blocks { first, len }, _) => {
                let block = u32::try_from(self.data / BLOCK + first);
                (DataLayout::Blocks, block.map_err(|_| ImageError::Unfit("too large a tree"))?, len)
            }
            (_, Form::Nowhere | Form::Chunks, _) => (DataLayout::Blocks, 0, 0),
        })
    }

    fn devices(&mut self) {
        for (at, file) in self.plan.devices.files().to_vec().iter().enumerate() {
            let blocks = u32::try_from(file.len.div_ceil(BLOCK)).unwrap_or(u32::MAX);
            let device = Device {
                tag: tag::of(file),
                blocks: U32::new(blocks),
                unified_block: U32::ZERO,
                zero: [0; 56],
            };
            self.put(DEVICES_OFFSET + at as u64 * DEVICE_LEN, device.as_bytes());
        }
    }

    fn super_block(&mut self, uuid: [u8; 16]) -> Result<(), ImageError> {
        let devices = u16::try_from(self.plan.devices.files().len()).unwrap_or(u16::MAX);
        let table = if devices > 0 { DEVICE_TABLE } else { 0 };
        let narrow = |_| ImageError::Unfit("too large a tree");
        let mut block = SuperBlock {
            magic: U32::new(MAGIC),
            compatible: U32::new(COMPATIBLE),
            block_bits: BLOCK_BITS,
            root: U16::new(u16::try_from(self.nid(0)).map_err(narrow)?),
            inodes: U64::new(self.plan.nodes.len() as u64),
            blocks: U32::new(u32::try_from(self.bytes.len() as u64 / BLOCK).map_err(narrow)?),
            meta_block: U32::new(u32::try_from(self.base / BLOCK).map_err(narrow)?),
            uuid,
            incompatible: U32::new(CHUNKED_FILE | table),
            devices: U16::new(devices),
            device_table: U16::new(u16::try_from(DEVICES_OFFSET / DEVICE_LEN).map_err(narrow)?),
            ..SuperBlock::default()
        };
        self.put(SUPER_OFFSET, block.as_bytes());
        let start = usize::try_from(SUPER_OFFSET).unwrap_or_default();
        let covered = &self.bytes[start..start + usize::try_from(BLOCK).unwrap_or_default()];
        let sum = !crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, covered);
        #[expect(clippy::cast_possible_truncation, reason = "a CRC of 32 bits")]
        let sum = sum as u32;
        block.checksum = U32::new(sum);
        self.put(SUPER_OFFSET, block.as_bytes());
        Ok(())
    }

    /// Everything was given its room by the plan.
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(room) = start.checked_add(bytes.len()).and_then(|end| self.bytes.get_mut(start..end)) {
            room.copy_from_slice(bytes);
        }
    }
}

/// The directory that holds nothing but the chain's root.
const HOLDER: Attributes = Attributes {
    kind: InodeType::Directory,
    mode: 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: Timestamp { seconds: 0, nanoseconds: 0 },
    nlink: 1,
};

fn record(
    attributes: &Attributes,
    layout: DataLayout,
    data: u32,
    size: u64,
    xattr_units: u16,
    nid: u64,
) -> Result<Inode, ImageError> {
    let kind = match attributes.kind {
        InodeType::Fifo => 0o010_000,
        InodeType::CharDevice { .. } => 0o020_000,
        InodeType::Directory => 0o040_000,
        InodeType::BlockDevice { .. } => 0o060_000,
        InodeType::Regular => 0o100_000,
        InodeType::Symlink => 0o120_000,
    };
    let mode = u16::try_from(kind | attributes.mode & 0o7777).unwrap_or_default();
    if attributes.nlink == 0 || i64::try_from(size).is_err() {
        return Err(ImageError::Malformed("a file without a name, or of a size that no file has"));
    }
    Ok(Inode {
        format: U16::new((layout as u16) << 1 | 1),
        xattr_units: U16::new(xattr_units),
        mode: U16::new(mode),
        zero: U16::ZERO,
        size: U64::new(size),
        data: U32::new(data),
        ino: U32::new(u32::try_from(nid).unwrap_or(u32::MAX)),
        uid: U32::new(attributes.uid),
        gid: U32::new(attributes.gid),
        seconds: U64::new(attributes.mtime.seconds.cast_unsigned()),
        nanoseconds: U32::new(attributes.mtime.nanoseconds),
        nlink: U32::new(attributes.nlink),
        zero2: [0; 16],
    })
}

/// As Linux encodes it in 32 bits: 12 of the major number, 20 of the minor.
fn device_number(major: u32, minor: u32) -> Result<u32, ImageError> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(ImageError::Unfit("a device number that Linux does not have"));
    }
    Ok(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// The same for every image of the same layers.
fn uuid<B: AsRef<[u8]>>(index: &LaunchIndex<B>, prefix: u16) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for layer in index.layers().iter().take(prefix.into()) {
        hasher.update(layer.diff_id.0.to_string().as_bytes());
    }
    let mut uuid = [0; 16];
    hasher.finalize_xof().fill(&mut uuid);
    uuid
}
