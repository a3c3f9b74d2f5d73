//! Writes a launch index. Deterministic: equal layers and trees give equal bytes.

use std::borrow::Borrow;
use std::collections::HashMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use super::layout::{
    AttributesRecord, ExtentRecord, HEADER_LEN, Header, LayerRecord, MAGIC, Section, SectionRecord,
    SpanRecord, TABLE_LEN, VERSION, file_type,
};
use super::{LaunchError, LaunchLayer};
use crate::tree::{AttributeSet, Inode, InodeKind, LayerStats, Pool, SetId, Tree};
use crate::{SparseExtent, Xattr};

/// The bytes of the index for `layers`, bottom to top, and their merged tree, which is let go as soon as it can be.
///
/// # Errors
/// The tree has another number of layers, or a part outgrows the format's 32-bit counts.
pub fn write(layers: &[LaunchLayer], tree: impl Borrow<Tree>) -> Result<Vec<u8>, LaunchError> {
    let mut writer = Writer { columns: Section::ALL.map(|_| Vec::new()), attributes: HashMap::new() };
    writer.tree(layers, tree.borrow())?;
    drop(tree);
    Ok(writer.assemble())
}

struct Writer {
    columns: [Vec<u8>; Section::ALL.len()],
    /// Numbers in the index of sets of attributes of a type of file.
    attributes: HashMap<(u32, SetId), u32>,
}

impl Writer {
    fn tree(&mut self, layers: &[LaunchLayer], tree: &Tree) -> Result<(), LaunchError> {
        if layers.len() != tree.layers.len() {
            return Err(LaunchError::Malformed("the tree has another number of layers than the image"));
        }
        for (layer, stats) in layers.iter().zip(&tree.layers) {
            self.layer(layer, *stats)?;
        }
        for inode in &tree.inodes {
            self.inode(inode, &tree.pool)?;
        }
        self.dirs(tree)
    }

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

    fn inode(&mut self, inode: &Inode, pool: &Pool) -> Result<(), LaunchError> {
        let (kind, size, data) = match inode.kind {
            InodeKind::Directory { dir } => (file_type::DIRECTORY, 0, dir.into()),
            InodeKind::Regular { size, offset } => (file_type::REGULAR, size, offset.0),
            InodeKind::Sparse { size, extents } => {
                (file_type::SPARSE, size, self.extents(&pool.extents[extents as usize])?.into())
            }
            InodeKind::Symlink { target } => {
                let target = pool.texts.get(target);
                (file_type::SYMLINK, target.len() as u64, self.heap(target)?.into())
            }
            InodeKind::CharDevice { major, minor } => (file_type::CHAR_DEVICE, 0, device(major, minor)),
            InodeKind::BlockDevice { major, minor } => (file_type::BLOCK_DEVICE, 0, device(major, minor)),
            InodeKind::Fifo => (file_type::FIFO, 0, 0),
        };
        let attributes = self.attributes(kind, inode.attributes.set, pool)?;
        let mtime = inode.attributes.mtime();
        self.push(Section::InodeAttributes, U32::from(attributes));
        self.push(Section::InodeLayer, U16::from(inode.layer));
        self.push(Section::InodeLinks, U32::from(inode.nlink));
        self.push(Section::InodeSeconds, I64::from(mtime.seconds));
        self.push(Section::InodeNanoseconds, U32::from(mtime.nanoseconds));
        self.push(Section::InodeSize, U64::from(size));
        self.push(Section::InodeData, U64::from(data));
        Ok(())
    }

    fn extents(&mut self, extents: &[SparseExtent]) -> Result<u32, LaunchError> {
        let records = extents.iter().map(|extent| ExtentRecord {
            file_offset: extent.file_offset.into(),
            tar_offset: extent.tar_offset.0.into(),
            len: extent.len.into(),
        });
        let records: Vec<ExtentRecord> = records.collect();
        let count = u32::try_from(records.len()).map_err(|_| LaunchError::Malformed("too many extents"))?;
        self.heap(&[U32::from(count).as_bytes(), records.as_bytes()].concat())
    }

    fn attributes(&mut self, kind: u32, set: SetId, pool: &Pool) -> Result<u32, LaunchError> {
        if let Some(&known) = self.attributes.get(&(kind, set)) {
            return Ok(known);
        }
        let AttributeSet { mode, uid, gid, xattrs } = pool.sets.get(set);
        let number = self.count(Section::Attributes)?;
        let list = if xattrs.is_empty() { 0 } else { 1 + self.heap(&xattr_list(xattrs)?)? };
        let mode = (kind | mode & 0o7777).into();
        let record = AttributesRecord { mode, uid: (*uid).into(), gid: (*gid).into(), xattrs: list.into() };
        self.push(Section::Attributes, record);
        self.attributes.insert((kind, set), number);
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
        let mut dentry_of_dir = vec![0u32; tree.dir_ends.len()];
        self.push(Section::DirFirst, U32::ZERO);
        let mut start = 0;
        for &end in &tree.dir_ends {
            let mut group = (&b""[..], 0);
            for (at, dentry) in tree.dentries[start..end].iter().enumerate() {
                let (name, number) = (tree.pool.texts.get(dentry.name), self.count(Section::DentryInode)?);
                if at == 0 || group.0 != name {
                    group = (name, number);
                }
                if let InodeKind::Directory { dir } = tree.inodes[dentry.inode as usize].kind {
                    dentry_of_dir[dir as usize] = group.1;
                }
                self.columns[Section::Names as usize].extend_from_slice(name);
                let name_end = self.count(Section::Names)?;
                self.push(Section::DentryNameEnd, U32::from(name_end));
                self.push(Section::DentryInode, U32::from(dentry.inode));
                self.push(Section::DentryFirstLayer, U16::from(dentry.first_layer));
                self.push(Section::DentryHiddenFrom, U16::from(dentry.hidden_from_layer));
            }
            start = end;
            let next = self.count(Section::DentryInode)?;
            self.push(Section::DirFirst, U32::from(next));
        }
        dentry_of_dir.into_iter().for_each(|dentry| self.push(Section::DirDentry, U32::from(dentry)));
        Ok(())
    }

    /// Puts the columns behind one another, letting each go.
    fn assemble(self) -> Vec<u8> {
        let len = HEADER_LEN + TABLE_LEN + self.columns.iter().map(Vec::len).sum::<usize>();
        let mut index = Vec::with_capacity(len);
        index.resize(HEADER_LEN, 0);
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
            index.extend_from_slice(record.as_bytes());
            offset += column.len();
        }
        self.columns.into_iter().for_each(|column| index.extend_from_slice(&column));
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            sections: (Section::Heap as u32 + 1).into(),
            file_len: (len as u64).into(),
            checksum: *blake3::hash(&index[HEADER_LEN..]).as_bytes(),
            zero: [0; 8],
        };
        index[..HEADER_LEN].copy_from_slice(header.as_bytes());
        index
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
