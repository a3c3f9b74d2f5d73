//! Writes a launch index. Deterministic: equal layers and trees give equal bytes.

use std::collections::HashMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::layout::{
    AttributesRecord, ExtentRecord, HEADER_LEN, Header, LayerRecord, MAGIC, Section, SectionRecord,
    SpanRecord, TABLE_LEN, VERSION, file_type,
};
use super::{LaunchError, LaunchLayer};
use crate::tree::{Attributes, Inode, InodeKind, LayerStats, Tree};
use crate::{Content, Xattr};

/// The bytes of the index for `layers`, bottom to top, and their merged tree.
///
/// # Errors
/// The tree has another number of layers, or a part outgrows the format's 32-bit counts.
pub fn write(layers: &[LaunchLayer], tree: &Tree) -> Result<Vec<u8>, LaunchError> {
    if layers.len() != tree.layers.len() {
        return Err(LaunchError::Malformed("the tree has another number of layers than the image"));
    }
    let mut writer = Writer { columns: Section::ALL.map(|_| Vec::new()), attributes: HashMap::new() };
    for (layer, stats) in layers.iter().zip(&tree.layers) {
        writer.layer(layer, *stats)?;
    }
    for inode in &tree.inodes {
        writer.inode(inode)?;
    }
    writer.dirs(tree)?;
    Ok(writer.assemble())
}

struct Writer<'t> {
    columns: [Vec<u8>; Section::ALL.len()],
    attributes: HashMap<(u32, u32, u32, &'t [Xattr]), u32>,
}

impl<'t> Writer<'t> {
    fn push(&mut self, section: Section, value: impl IntoBytes + zerocopy::Immutable) {
        self.columns[section as usize].extend_from_slice(value.as_bytes());
    }

    fn count(&self, section: Section) -> Result<u32, LaunchError> {
        let count = self.columns[section as usize].len() / section.element_len();
        u32::try_from(count).map_err(|_| LaunchError::Malformed("more than 2^32 records in one section"))
    }

    fn layer(&mut self, layer: &LaunchLayer, stats: LayerStats) -> Result<(), LaunchError> {
        let first_span = self.count(Section::Spans)?;
        for span in &layer.spans {
            self.push(
                Section::Spans,
                SpanRecord {
                    blob_offset: span.blob_offset.0.into(),
                    tar_offset: span.tar_offset.0.into(),
                    compressed_len: span.compressed_len.into(),
                    tar_len: span.tar_len.into(),
                    digest: span.digest.0,
                },
            );
        }
        let spans = self.count(Section::Spans)? - first_span;
        self.push(
            Section::Layers,
            LayerRecord {
                diff_id: *layer.diff_id.0.as_bytes(),
                original_digest: *layer.original.digest.as_bytes(),
                converted_digest: *layer.converted.digest.as_bytes(),
                original_len: layer.original.len.into(),
                converted_len: layer.converted.len.into(),
                tar_len: layer.tar_len.into(),
                content_len: stats.content_bytes.into(),
                first_span: first_span.into(),
                spans: spans.into(),
                inodes: stats.inodes.into(),
                original_compression: layer.original.compression as u8,
                converted_compression: layer.converted.compression as u8,
                digest_scope: layer.scope as u8,
                zero: 0,
            },
        );
        Ok(())
    }

    fn inode(&mut self, inode: &'t Inode) -> Result<(), LaunchError> {
        let (kind, size, data) = match &inode.kind {
            InodeKind::Directory { dir } => (file_type::DIRECTORY, 0, *dir as u64),
            InodeKind::Regular { size, content: Content::Contiguous(offset) } => {
                (file_type::REGULAR, *size, offset.0)
            }
            InodeKind::Regular { size, content: Content::Sparse(extents) } => {
                let records = extents.iter().map(|extent| ExtentRecord {
                    file_offset: extent.file_offset.into(),
                    tar_offset: extent.tar_offset.0.into(),
                    len: extent.len.into(),
                });
                let records: Vec<ExtentRecord> = records.collect();
                let count =
                    u32::try_from(records.len()).map_err(|_| LaunchError::Malformed("too many extents"))?;
                let at = self.heap(&[U32::from(count).as_bytes(), records.as_bytes()].concat())?;
                (file_type::SPARSE, *size, at.into())
            }
            InodeKind::Symlink { target } => {
                (file_type::SYMLINK, target.len() as u64, self.heap(target)?.into())
            }
            InodeKind::CharDevice { major, minor } => (file_type::CHAR_DEVICE, 0, device(*major, *minor)),
            InodeKind::BlockDevice { major, minor } => (file_type::BLOCK_DEVICE, 0, device(*major, *minor)),
            InodeKind::Fifo => (file_type::FIFO, 0, 0),
        };
        let attributes = self.attributes(kind, inode)?;
        self.push(Section::InodeAttributes, U32::from(attributes));
        self.push(Section::InodeLayer, U16::from(inode.layer));
        self.push(Section::InodeLinks, U32::from(inode.nlink));
        self.push(Section::InodeSeconds, zerocopy::little_endian::I64::from(inode.attributes.mtime.seconds));
        self.push(Section::InodeNanoseconds, U32::from(inode.attributes.mtime.nanoseconds));
        self.push(Section::InodeSize, U64::from(size));
        self.push(Section::InodeData, U64::from(data));
        Ok(())
    }

    fn attributes(&mut self, kind: u32, inode: &'t Inode) -> Result<u32, LaunchError> {
        let Attributes { mode, uid, gid, ref xattrs, .. } = inode.attributes;
        let mode = kind | (mode & 0o7777);
        let key = (mode, uid, gid, &xattrs[..]);
        if let Some(&known) = self.attributes.get(&key) {
            return Ok(known);
        }
        let number = self.count(Section::Attributes)?;
        let list = if xattrs.is_empty() { 0 } else { 1 + self.heap(&xattr_list(xattrs)?)? };
        self.push(
            Section::Attributes,
            AttributesRecord { mode: mode.into(), uid: uid.into(), gid: gid.into(), xattrs: list.into() },
        );
        self.attributes.insert(key, number);
        Ok(number)
    }

    /// Appends to the heap and returns where.
    fn heap(&mut self, bytes: &[u8]) -> Result<u32, LaunchError> {
        let at = self.count(Section::Heap)?;
        self.columns[Section::Heap as usize].extend_from_slice(bytes);
        // The next record, or the `1 +` of an xattr list, must still have a 32-bit offset.
        self.count(Section::Heap).map(|_| at)
    }

    fn dirs(&mut self, tree: &Tree) -> Result<(), LaunchError> {
        let mut dentry_of_dir = vec![0u32; tree.dirs.len()];
        self.push(Section::DirFirst, U32::ZERO);
        for dir in &tree.dirs {
            let mut group = (&b""[..], 0);
            for (at, dentry) in dir.dentries.iter().enumerate() {
                let number = self.count(Section::DentryInode)?;
                if at == 0 || group.0 != &dentry.name[..] {
                    group = (&dentry.name, number);
                }
                if let InodeKind::Directory { dir } = tree.inodes[dentry.inode].kind {
                    dentry_of_dir[dir] = group.1;
                }
                self.columns[Section::Names as usize].extend_from_slice(&dentry.name);
                let name_end = self.count(Section::Names)?;
                let inode =
                    u32::try_from(dentry.inode).map_err(|_| LaunchError::Malformed("too many inodes"))?;
                self.push(Section::DentryNameEnd, U32::from(name_end));
                self.push(Section::DentryInode, U32::from(inode));
                self.push(Section::DentryFirstLayer, U16::from(dentry.first_layer));
                self.push(Section::DentryHiddenFrom, U16::from(dentry.hidden_from_layer));
            }
            let next = self.count(Section::DentryInode)?;
            self.push(Section::DirFirst, U32::from(next));
        }
        dentry_of_dir.into_iter().for_each(|dentry| self.push(Section::DirDentry, U32::from(dentry)));
        Ok(())
    }

    fn assemble(self) -> Vec<u8> {
        let len = HEADER_LEN + TABLE_LEN + self.columns.iter().map(Vec::len).sum::<usize>();
        let mut body = Vec::with_capacity(len - HEADER_LEN);
        let mut offset = HEADER_LEN + TABLE_LEN;
        for (section, column) in Section::ALL.into_iter().zip(&self.columns) {
            #[expect(clippy::cast_possible_truncation, reason = "element lengths are below 256")]
            let element_len = section.element_len() as u32;
            let record = SectionRecord {
                section: (section as u32).into(),
                element_len: element_len.into(),
                offset: (offset as u64).into(),
                len: (column.len() as u64).into(),
            };
            body.extend_from_slice(record.as_bytes());
            offset += column.len();
        }
        self.columns.iter().for_each(|column| body.extend_from_slice(column));
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            sections: (Section::Heap as u32 + 1).into(),
            file_len: (len as u64).into(),
            checksum: *blake3::hash(&body).as_bytes(),
            zero: [0; 8],
        };
        [header.as_bytes(), &body].concat()
    }
}

fn device(major: u32, minor: u32) -> u64 {
    u64::from(major) << 32 | u64::from(minor)
}

fn xattr_list(xattrs: &[Xattr]) -> Result<Vec<u8>, LaunchError> {
    let too_long = |_| LaunchError::Malformed("an extended attribute is too long");
    let count =
        u16::try_from(xattrs.len()).map_err(|_| LaunchError::Malformed("too many extended attributes"))?;
    let mut list = U16::from(count).as_bytes().to_vec();
    for Xattr { name, value } in xattrs {
        let name_len = u16::try_from(name.len()).map_err(too_long)?;
        let value_len = u32::try_from(value.len()).map_err(too_long)?;
        list.extend_from_slice(U16::from(name_len).as_bytes());
        list.extend_from_slice(U32::from(value_len).as_bytes());
        list.extend_from_slice(name);
        list.extend_from_slice(value);
    }
    Ok(list)
}
