//! Reads a launch index in place.
//!
//! [`LaunchIndex::open`] costs the same for ten entries as for a million, besides one look at each layer and
//! span. Whatever else the bytes say is checked where it is read: a record out of range is an error there,
//! never a panic. [`super::check()`] looks at everything once, when an index arrives.

use zerocopy::FromBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use super::layer::read_layer;
use super::layout::{
    AttributesRecord, ExtentRecord, HEADER_LEN, Header, LayerRecord, MAGIC, Section, SectionRecord,
    SpanRecord, TABLE_LEN, VERSION, file_type,
};
use super::{LaunchError, LaunchLayer, View};
use crate::tree::MAX_LAYERS;
use crate::{ChainId, DiffId, SparseExtent, TarOffset, Timestamp, Xattr};

/// An open index over bytes that are owned, borrowed or mapped.
pub struct LaunchIndex<B> {
    bytes: B,
    sections: [(usize, usize); Section::ALL.len()],
    layers: Vec<LaunchLayer>,
}

/// Number of an inode in its index: the same in every prefix, on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u32);

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum InodeType {
    Directory,
    Regular,
    Symlink,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// What `stat` tells of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its type.
    pub kind: InodeType,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content, or of a symbolic link's target.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Names that its layer gave it; of a directory that one layer alone has, the directories in it and 2, of one that
    /// overlayfs would merge, 1.
    pub nlink: u32,
}

/// Where a regular file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    /// The layer, counted from the bottom.
    pub layer: u16,
    /// Bytes a reader sees; what no stretch covers is zero.
    pub size: u64,
    /// Stretches of tar, sorted by file offset; exactly one for a file that is not sparse.
    pub extents: Vec<SparseExtent>,
}

impl<B: AsRef<[u8]>> LaunchIndex<B> {
    /// Opens an index: checks its frame, its layers and its spans.
    ///
    /// # Errors
    /// The bytes are no launch index, or one of another version, or contradict the format.
    pub fn open(bytes: B) -> Result<Self, LaunchError> {
        let sections = sections_of(bytes.as_ref())?;
        let mut index = Self { bytes, sections, layers: Vec::new() };
        index.check_columns()?;
        index.layers = index.read_layers()?;
        Ok(index)
    }

    /// Length of the bytes it was opened from.
    pub fn bytes_len(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// The bytes it was opened from.
    pub fn into_bytes(self) -> B {
        self.bytes
    }

    /// Compares the checksum that was written with the bytes: finds what a disk did to them.
    ///
    /// # Errors
    /// They differ.
    pub fn verify_checksum(&self) -> Result<(), LaunchError> {
        let (header, body) = Header::read_from_prefix(self.bytes.as_ref()).map_err(|_| LaunchError::Magic)?;
        if *blake3::hash(body).as_bytes() == header.checksum { Ok(()) } else { Err(LaunchError::Checksum) }
    }

    /// The layers, bottom to top.
    pub fn layers(&self) -> &[LaunchLayer] {
        &self.layers
    }

    /// The diffIDs, bottom to top.
    pub fn diff_ids(&self) -> Vec<DiffId> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }

    /// How many layers make up `chain`, if it is a prefix of this image.
    pub fn prefix_of(&self, chain: ChainId) -> Option<u16> {
        let at = ChainId::prefixes(&self.diff_ids()).position(|prefix| prefix == chain)?;
        u16::try_from(at + 1).ok()
    }

    /// The tree of the first `prefix` layers, or `None` if there are fewer, or none is asked for.
    pub fn view(&self, prefix: u16) -> Option<View<'_, B>> {
        (1..=self.layers.len()).contains(&usize::from(prefix)).then(|| View::new(self, prefix))
    }

    /// Files and bytes of content that a layer adds when unpacked.
    pub fn layer_stats(&self, layer: usize) -> Option<crate::tree::LayerStats> {
        let record =
            self.section(Section::Layers, layer).and_then(|b| LayerRecord::read_from_bytes(b).ok())?;
        Some(crate::tree::LayerStats { inodes: record.inodes.get(), content_bytes: record.content_len.get() })
    }

    /// Number of inodes, over all layers.
    pub fn inode_count(&self) -> usize {
        self.count(Section::InodeAttributes)
    }

    /// Number of versions of names, over all layers.
    pub fn entry_count(&self) -> usize {
        self.count(Section::DentryInode)
    }

    /// Whether any file has an extended attribute.
    pub fn has_xattrs(&self) -> bool {
        (0..self.count(Section::Attributes))
            .any(|at| self.attributes_record(at).is_ok_and(|r| r.xattrs.get() != 0))
    }

    /// Whether any file has an access list.
    pub fn has_acls(&self) -> bool {
        let lists = (0..self.count(Section::Attributes))
            .filter_map(|at| self.attributes_record(at).ok()?.xattrs.get().checked_sub(1));
        let mut xattrs = lists.filter_map(|at| self.xattr_list(at.into())).flatten();
        xattrs.any(|xattr| xattr.name.starts_with(b"system.posix_acl_"))
    }

    /// What `stat` tells.
    ///
    /// # Errors
    /// There is no such inode, or its record is malformed.
    pub fn attributes(&self, inode: InodeId) -> Result<Attributes, LaunchError> {
        let bad = |why| LaunchError::Record { what: "inode", at: inode.0.into(), why };
        let record = self.inode_attributes(inode)?;
        let data = self.u64_at(Section::InodeData, inode)?;
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a device number")]
        let (major, minor) = ((data >> 32) as u32, data as u32);
        let kind = match record.mode.get() & file_type::MASK {
            file_type::DIRECTORY => InodeType::Directory,
            file_type::REGULAR | file_type::SPARSE => InodeType::Regular,
            file_type::SYMLINK => InodeType::Symlink,
            file_type::CHAR_DEVICE => InodeType::CharDevice { major, minor },
            file_type::BLOCK_DEVICE => InodeType::BlockDevice { major, minor },
            file_type::FIFO => InodeType::Fifo,
            _ => return Err(bad("unknown file type")),
        };
        let at = inode.0 as usize;
        let seconds = self.section(Section::InodeSeconds, at).and_then(|b| I64::read_from_bytes(b).ok());
        let nanoseconds = self.u32_at(Section::InodeNanoseconds, at)?;
        if nanoseconds >= 1_000_000_000 {
            return Err(bad("nanoseconds out of range"));
        }
        Ok(Attributes {
            kind,
            mode: record.mode.get() & 0o7777,
            uid: record.uid.get(),
            gid: record.gid.get(),
            size: self.u64_at(Section::InodeSize, inode)?,
            mtime: Timestamp { seconds: seconds.ok_or_else(|| bad("no time"))?.get(), nanoseconds },
            nlink: self.u32_at(Section::InodeLinks, at)?,
        })
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// There is no such inode, or it is no symbolic link.
    pub fn symlink_target(&self, inode: InodeId) -> Result<&[u8], LaunchError> {
        let bad = |why| LaunchError::Record { what: "inode", at: inode.0.into(), why };
        if self.inode_attributes(inode)?.mode.get() & file_type::MASK != file_type::SYMLINK {
            return Err(bad("not a symbolic link"));
        }
        let (at, len) = (self.u64_at(Section::InodeData, inode)?, self.u64_at(Section::InodeSize, inode)?);
        self.heap(at, len).ok_or_else(|| bad("its target lies outside the heap"))
    }

    /// Where a regular file's bytes are.
    ///
    /// # Errors
    /// There is no such inode, it is no regular file, or its content lies outside its layer.
    pub fn content(&self, inode: InodeId) -> Result<FileContent, LaunchError> {
        let bad = |why| LaunchError::Record { what: "inode", at: inode.0.into(), why };
        let kind = self.inode_attributes(inode)?.mode.get() & file_type::MASK;
        let (data, size) = (self.u64_at(Section::InodeData, inode)?, self.u64_at(Section::InodeSize, inode)?);
        let extents = match kind {
            file_type::REGULAR => {
                vec![SparseExtent { file_offset: 0, tar_offset: TarOffset(data), len: size }]
            }
            file_type::SPARSE => self.extents(data).ok_or_else(|| bad("its extents lie outside the heap"))?,
            _ => return Err(bad("not a regular file")),
        };
        let layer =
            self.section(Section::InodeLayer, inode.0 as usize).and_then(|b| U16::read_from_bytes(b).ok());
        let layer = layer.ok_or_else(|| bad("no layer"))?.get();
        let tar_len = self.layers.get(usize::from(layer)).ok_or_else(|| bad("no such layer"))?.tar_len;
        let mut end = 0;
        for extent in &extents {
            let tar_end = extent.tar_offset.0.checked_add(extent.len).filter(|&end| end <= tar_len);
            let file_end = extent.file_offset.checked_add(extent.len).filter(|&end| end <= size);
            if tar_end.is_none() || file_end.is_none() || extent.file_offset < end {
                return Err(bad("its content lies outside the layer or the file"));
            }
            end = extent.file_offset + extent.len;
        }
        Ok(FileContent { layer, size, extents })
    }

    /// The extended attributes, sorted by name.
    ///
    /// # Errors
    /// There is no such inode, or its list is malformed.
    pub fn xattrs(&self, inode: InodeId) -> Result<Vec<Xattr>, LaunchError> {
        let bad =
            LaunchError::Record { what: "inode", at: inode.0.into(), why: "malformed extended attributes" };
        match self.inode_attributes(inode)?.xattrs.get() {
            0 => Ok(Vec::new()),
            at => self.xattr_list(u64::from(at) - 1).ok_or(bad),
        }
    }

    fn xattr_list(&self, at: u64) -> Option<Vec<Xattr>> {
        let heap = self.column(Section::Heap).get(usize::try_from(at).ok()?..)?;
        let (count, mut rest) = U16::read_from_prefix(heap).ok()?;
        (0..count.get())
            .map(|_| {
                let (name_len, after) = U16::read_from_prefix(rest).ok()?;
                let (value_len, after) = U32::read_from_prefix(after).ok()?;
                let (name, after) = after.split_at_checked(name_len.get().into())?;
                let (value, after) = after.split_at_checked(value_len.get() as usize)?;
                rest = after;
                Some(Xattr { name: name.into(), value: value.into() })
            })
            .collect()
    }

    fn extents(&self, at: u64) -> Option<Vec<SparseExtent>> {
        let heap = self.column(Section::Heap).get(usize::try_from(at).ok()?..)?;
        let (count, rest) = U32::read_from_prefix(heap).ok()?;
        let (records, _) = <[ExtentRecord]>::ref_from_prefix_with_elems(rest, count.get() as usize).ok()?;
        let extents = records.iter().map(|record| SparseExtent {
            file_offset: record.file_offset.get(),
            tar_offset: TarOffset(record.tar_offset.get()),
            len: record.len.get(),
        });
        Some(extents.collect())
    }

    fn read_layers(&self) -> Result<Vec<LaunchLayer>, LaunchError> {
        let records = <[LayerRecord]>::ref_from_bytes(self.column(Section::Layers))
            .map_err(|_| LaunchError::Malformed("odd length of the layer section"))?;
        if records.is_empty() || records.len() > MAX_LAYERS {
            return Err(LaunchError::Malformed("no layers, or too many"));
        }
        let spans = <[SpanRecord]>::ref_from_bytes(self.column(Section::Spans))
            .map_err(|_| LaunchError::Malformed("odd length of the span section"))?;
        let read = |(at, record)| read_layer(record, spans).map_err(|why| layer_error(at, why));
        records.iter().enumerate().map(read).collect()
    }

    /// The columns of one table must have as many elements as each other.
    fn check_columns(&self) -> Result<(), LaunchError> {
        use Section as S;
        let (inodes, dentries, dirs) = (self.inode_count(), self.entry_count(), self.count(S::DirDentry));
        let inode_columns =
            [S::InodeLayer, S::InodeLinks, S::InodeSeconds, S::InodeNanoseconds, S::InodeSize, S::InodeData];
        let dentry_columns = [S::DentryNameEnd, S::DentryFirstLayer, S::DentryHiddenFrom];
        let agree = inode_columns.iter().all(|&column| self.count(column) == inodes)
            && dentry_columns.iter().all(|&column| self.count(column) == dentries)
            && self.count(S::DirFirst) == dirs + 1
            && dirs >= 2;
        if agree { Ok(()) } else { Err(LaunchError::Malformed("columns of one table differ in length")) }
    }

    fn inode_attributes(&self, inode: InodeId) -> Result<&AttributesRecord, LaunchError> {
        self.attributes_record(self.u32_at(Section::InodeAttributes, inode.0 as usize)? as usize)
    }

    fn attributes_record(&self, at: usize) -> Result<&AttributesRecord, LaunchError> {
        self.section(Section::Attributes, at)
            .and_then(|bytes| AttributesRecord::ref_from_bytes(bytes).ok())
            .ok_or(LaunchError::Record { what: "attribute set", at: at as u64, why: "does not exist" })
    }

    fn heap(&self, at: u64, len: u64) -> Option<&[u8]> {
        let end = at.checked_add(len)?;
        self.column(Section::Heap).get(usize::try_from(at).ok()?..usize::try_from(end).ok()?)
    }

    pub(super) fn column(&self, section: Section) -> &[u8] {
        let (offset, len) = self.sections[section as usize];
        // In range: `sections_of` checked it against these very bytes.
        self.bytes.as_ref().get(offset..offset + len).unwrap_or_default()
    }

    pub(super) fn count(&self, section: Section) -> usize {
        self.sections[section as usize].1 / section.element_len()
    }

    fn section(&self, section: Section, at: usize) -> Option<&[u8]> {
        let len = section.element_len();
        let start = at.checked_mul(len)?;
        self.column(section).get(start..start.checked_add(len)?)
    }

    pub(super) fn u16_at(&self, section: Section, at: usize) -> Result<u16, LaunchError> {
        let bytes = self.section(section, at).and_then(|bytes| U16::read_from_bytes(bytes).ok());
        bytes.map(U16::get).ok_or(LaunchError::Record {
            what: "record",
            at: at as u64,
            why: "does not exist",
        })
    }

    pub(super) fn u32_at(&self, section: Section, at: usize) -> Result<u32, LaunchError> {
        let bytes = self.section(section, at).and_then(|bytes| U32::read_from_bytes(bytes).ok());
        bytes.map(U32::get).ok_or(LaunchError::Record {
            what: "record",
            at: at as u64,
            why: "does not exist",
        })
    }

    pub(super) fn u64_at(&self, section: Section, inode: InodeId) -> Result<u64, LaunchError> {
        let bytes =
            self.section(section, inode.0 as usize).and_then(|bytes| U64::read_from_bytes(bytes).ok());
        bytes.map(U64::get).ok_or(LaunchError::Record {
            what: "inode",
            at: inode.0.into(),
            why: "does not exist",
        })
    }
}

fn layer_error(at: usize, why: &'static str) -> LaunchError {
    LaunchError::Record { what: "layer", at: at as u64, why }
}

/// Checks the header and the section table, and returns each section's offset and length in bytes.
fn sections_of(bytes: &[u8]) -> Result<[(usize, usize); Section::ALL.len()], LaunchError> {
    let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| LaunchError::Magic)?;
    if header.magic != MAGIC {
        return Err(LaunchError::Magic);
    }
    if header.version.get() != VERSION {
        return Err(LaunchError::Version(header.version.get()));
    }
    if header.file_len.get() != bytes.len() as u64 {
        return Err(LaunchError::Length { declared: header.file_len.get(), actual: bytes.len() as u64 });
    }
    let table = <[SectionRecord]>::ref_from_prefix_with_elems(rest, Section::ALL.len());
    let (table, _) = table.map_err(|_| LaunchError::Malformed("the section table is cut off"))?;
    if header.sections.get() as usize != table.len() {
        return Err(LaunchError::Malformed("another number of sections than version 1 has"));
    }
    let mut sections = [(0, 0); Section::ALL.len()];
    let mut expected = HEADER_LEN + TABLE_LEN;
    for (section, record) in Section::ALL.into_iter().zip(table) {
        let known = record.section.get() == section as u32
            && record.element_len.get() as usize == section.element_len();
        let (offset, len) = (record.offset.get() as u128, record.len.get());
        let fits = offset == expected as u128 && offset + u128::from(len) <= bytes.len() as u128;
        let len = usize::try_from(len).ok().filter(|len| known && fits && len % section.element_len() == 0);
        let len = len.ok_or(LaunchError::Malformed("a section is out of place"))?;
        sections[section as usize] = (expected, len);
        expected += len;
    }
    if expected == bytes.len() {
        Ok(sections)
    } else {
        Err(LaunchError::Malformed("bytes behind the last section"))
    }
}
