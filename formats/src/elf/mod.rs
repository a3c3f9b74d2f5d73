//! ELF files (programs and libraries), as far as loading them goes: which parts are mapped, and which libraries are named.
//!
//! ```text
//! file header, program headers  -> Head: segments; where the interpreter's name and the dynamic section are
//! dynamic section               -> Dynamic: where the table of strings is
//! table of strings              -> Names: libraries, and where they are looked for
//! ```
//!
//! Both classes and byte orders, as [System V's ABI](https://gabi.xinuos.com/) has them. Who asks brings the bytes, piece by piece.
//! Nothing that a file says makes more work than the limits here; what makes no sense is `None`, for it need not be an ELF file at all.

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use std::ops::Range;

use object::Endianness;
use object::elf::{
    DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, FileHeader32, FileHeader64, PF_W, PF_X,
    PT_DYNAMIC, PT_INTERP, PT_LOAD,
};
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _};

use crate::entry::PATH_MAX;

/// More segments than any linker makes.
pub const MAX_SEGMENTS: usize = 64;
/// Bytes of a table that is read; those of Debian's largest libraries have a tenth.
pub const MAX_TABLE: u64 = 4 << 20;
/// Libraries that one file may name.
pub const MAX_NEEDED: usize = 256;

type Elf64 = FileHeader64<Endianness>;
type Elf32 = FileHeader32<Endianness>;

/// Whether a file that begins like this is one.
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// What a file says of its parts. Ranges are of the file, and may lie beyond its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is mapped.
    pub segments: Vec<Segment>,
    /// The name of what loads it, if it is a program.
    pub interpreter: Option<Range<u64>>,
    /// The dynamic section, if it is linked when it is loaded.
    pub dynamic: Option<Range<u64>>,
    is_64: bool,
    endian: Endianness,
}

/// A part that is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes are in the file.
    pub file: Range<u64>,
    /// Whether it is code.
    pub is_executable: bool,
    /// Whether it is written to.
    pub is_writable: bool,
    /// Where its first byte is in memory.
    address: u64,
}

/// What the dynamic section says, with names as offsets into the table of strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// Where that table is in the file, if it is in a segment.
    pub strings: Option<Range<u64>>,
    needed: Vec<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
}

/// Names that a file has for what it is linked with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Libraries.
    pub needed: Vec<String>,
    /// Where they are, said the old way,
    pub rpath: Option<String>,
    /// and the new way.
    pub runpath: Option<String>,
}

impl Head {
    /// Reads the beginning of a file, which has to reach to the end of the program headers.
    pub fn parse(head: &[u8]) -> Option<Self> {
        match Elf64::parse(head) {
            Ok(header) => parse(header, head),
            Err(_) => parse(Elf32::parse(head).ok()?, head),
        }
    }

    /// Reads the dynamic section.
    pub fn read_dynamic(&self, section: &[u8]) -> Dynamic {
        if self.is_64 { self.dynamic_as::<Elf64>(section) } else { self.dynamic_as::<Elf32>(section) }
    }

    fn dynamic_as<E: FileHeader<Endian = Endianness>>(&self, section: &[u8]) -> Dynamic {
        let count = section.len() / size_of::<E::Dyn>();
        let Ok((entries, _)) = object::pod::slice_from_bytes::<E::Dyn>(section, count) else {
            return Dynamic::default();
        };
        let (mut dynamic, mut strings, mut strings_len) = (Dynamic::default(), None, 0);
        for entry in entries {
            let value = entry.val(self.endian);
            match entry.tag(self.endian) {
                DT_NULL => break,
                DT_NEEDED if dynamic.needed.len() < MAX_NEEDED => dynamic.needed.push(value),
                DT_STRTAB => strings = Some(value),
                DT_STRSZ => strings_len = value,
                DT_RPATH => dynamic.rpath = Some(value),
                DT_RUNPATH => dynamic.runpath = Some(value),
                _ => {}
            }
        }
        dynamic.strings = strings.and_then(|address| self.table_at(address, strings_len));
        dynamic
    }

    /// Where in the file a table is that is in memory at an address, if a segment holds all of it.
    fn table_at(&self, address: u64, len: u64) -> Option<Range<u64>> {
        let within = |segment: &Segment| {
            let offset = address.checked_sub(segment.address)?;
            let start = segment.file.start.checked_add(offset)?;
            let end = start.checked_add(len).filter(|end| *end <= segment.file.end)?;
            Some(start..end)
        };
        self.segments.iter().find_map(within).filter(|_| len <= MAX_TABLE)
    }
}

impl Dynamic {
    /// Looks the names up in the table of strings.
    pub fn names(&self, strings: &[u8]) -> Names {
        let text = |at: u64| name(strings.get(usize::try_from(at).ok()?..)?);
        Names {
            needed: self.needed.iter().filter_map(|at| text(*at)).collect(),
            rpath: self.rpath.and_then(text),
            runpath: self.runpath.and_then(text),
        }
    }
}

/// The name at the beginning of some bytes, up to its NUL.
pub fn name(bytes: &[u8]) -> Option<String> {
    let bytes = &bytes[..bytes.len().min(PATH_MAX + 1)];
    let end = bytes.iter().position(|byte| *byte == 0).filter(|end| *end > 0)?;
    std::str::from_utf8(&bytes[..end]).ok().map(str::to_owned)
}

fn parse<E: FileHeader<Endian = Endianness>>(header: &E, head: &[u8]) -> Option<Head> {
    let endian = header.endian().ok()?;
    let mut parsed =
        Head { segments: Vec::new(), interpreter: None, dynamic: None, is_64: header.is_type_64(), endian };
    let listed = header.program_headers(endian, head).ok().filter(|all| all.len() <= MAX_SEGMENTS)?;
    for segment in listed {
        let (offset, len): (u64, u64) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
        let file = offset..offset.checked_add(len)?;
        match segment.p_type(endian) {
            PT_INTERP if len <= PATH_MAX as u64 => parsed.interpreter = Some(file),
            PT_DYNAMIC if len <= MAX_TABLE => parsed.dynamic = Some(file),
            PT_LOAD => {
                let flags = segment.p_flags(endian);
                parsed.segments.push(Segment {
                    file,
                    is_executable: flags.contains(PF_X),
                    is_writable: flags.contains(PF_W),
                    address: segment.p_vaddr(endian).into(),
                });
            }
            _ => {}
        }
    }
    Some(parsed)
}
