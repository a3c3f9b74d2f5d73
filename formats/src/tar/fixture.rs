//! A tiny tar builder for tests, which can also write what no tool would.

use super::padding_of;

/// A tar in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tar {
    pub bytes: Vec<u8>,
}

/// One header; the defaults are a root-owned regular file.
#[derive(Clone, Debug)]
pub(crate) struct Head<'a> {
    pub name: &'a [u8],
    pub typeflag: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: u64,
    pub link: &'a [u8],
    pub magic: &'a [u8; 8],
    pub device: (u32, u32),
}

pub(crate) const USTAR: &[u8; 8] = b"ustar\x0000";
pub(crate) const GNU: &[u8; 8] = b"ustar  \0";

impl Default for Head<'_> {
    fn default() -> Self {
        Self {
            name: b"",
            typeflag: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            link: b"",
            magic: USTAR,
            device: (0, 0),
        }
    }
}

impl Head<'_> {
    pub fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, self.name);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.uid).as_bytes());
        put(116, format!("{:07o}\0", self.gid).as_bytes());
        put(124, format!("{:011o}\0", self.size).as_bytes());
        put(136, format!("{:011o}\0", self.mtime).as_bytes());
        put(156, &[self.typeflag]);
        put(157, self.link);
        put(257, self.magic);
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        seal(&mut block);
        block
    }
}

/// Writes the checksum.
pub(crate) fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// The header block of an old GNU sparse file of 100,000 bytes, and its extension block: four stretches of
/// `each` bytes at multiples of 4096, a fifth of `fifth` bytes, and an empty one at the end.
pub(crate) fn old_gnu_sparse(name: &[u8], each: u64, fifth: u64) -> [[u8; 512]; 2] {
    let stretch = |block: &mut [u8], at: usize, offset: u64, len: u64| {
        block[at..at + 24].copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
    };
    let size = 4 * each + fifth;
    let mut block = Head { name, typeflag: b'S', magic: GNU, size, ..Head::default() }.block();
    for n in 0..4 {
        stretch(&mut block, 386 + 24 * n, 4096 * n as u64, each);
    }
    block[482] = 1;
    block[483..495].copy_from_slice(format!("{:011o}\0", 100_000).as_bytes());
    seal(&mut block);
    let mut extension = [0; 512];
    stretch(&mut extension, 0, 4096 * 4, fifth);
    stretch(&mut extension, 24, 100_000, 0);
    [block, extension]
}

impl Tar {
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn head(self, head: Head<'_>) -> Self {
        self.raw(&head.block())
    }

    /// Content and its padding.
    pub fn content(mut self, content: &[u8]) -> Self {
        self.bytes.extend_from_slice(content);
        let padding = usize::try_from(padding_of(content.len() as u64)).unwrap();
        self.bytes.resize(self.bytes.len() + padding, 0);
        self
    }

    pub fn file(self, name: &str, content: &[u8]) -> Self {
        let size = content.len() as u64;
        self.head(Head { name: name.as_bytes(), size, mtime: 1_700_000_000, ..Head::default() })
            .content(content)
    }

    pub fn dir(self, name: &str) -> Self {
        self.head(Head { name: name.as_bytes(), typeflag: b'5', mode: 0o755, ..Head::default() })
    }

    pub fn link(self, typeflag: u8, name: &str, target: &str) -> Self {
        self.head(Head { name: name.as_bytes(), typeflag, link: target.as_bytes(), ..Head::default() })
    }

    /// An extension (`x`, `g`, `L`, `K`) with this content.
    pub fn extension(self, typeflag: u8, content: &[u8]) -> Self {
        let magic = if typeflag.is_ascii_lowercase() { USTAR } else { GNU };
        let size = content.len() as u64;
        self.head(Head { name: b"extension", typeflag, size, magic, ..Head::default() }).content(content)
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.extension(b'x', &content)
    }

    /// Two zero blocks.
    pub fn end(self) -> Self {
        self.raw(&[0; 1024])
    }
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let len = (1..).find(|len| body + len_of(*len) == *len).unwrap();
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

fn len_of(number: usize) -> usize {
    number.to_string().len()
}
