//! ELF files: what their dynamic linker needs to know, and what loading them touches.

use std::ops::Range;

use jaunt_formats::entry::PATH_MAX;
use object::elf::{
    DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, FileHeader32, FileHeader64, PF_W, PF_X,
    PT_DYNAMIC, PT_INTERP, PT_LOAD,
};
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _};
use object::{Endianness, FileKind};

use super::files::{File, Files};
use crate::error::Error;

/// Bytes of one table that are read; those of Debian's largest libraries have a tenth.
const MAX_TABLE: u64 = 4 << 20;
/// Libraries that one file may name.
const MAX_NEEDED: usize = 256;

/// What an ELF file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The linker that loads it, if it is a program.
    pub interpreter: Option<String>,
    /// Libraries, by their names.
    pub needed: Vec<String>,
    /// Where they are, said the old way,
    pub rpath: Option<String>,
    /// and the new way.
    pub runpath: Option<String>,
    /// Ranges of the file that linking goes through: tables before the code, and data that is relocated.
    pub relocated: Vec<Range<u64>>,
}

/// Where things are in the file.
#[derive(Debug, Default)]
struct Layout {
    interpreter: Option<Range<u64>>,
    dynamic: Option<Range<u64>>,
    /// Addresses in memory, and where their bytes are in the file.
    loads: Vec<(Range<u64>, u64)>,
    relocated: Vec<Range<u64>>,
}

/// What the dynamic section says, with names as offsets into the table of strings.
#[derive(Debug, Default)]
struct Dynamic {
    strings: Option<u64>,
    strings_len: u64,
    needed: Vec<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
}

impl Program {
    /// Whether a file that begins like this is one.
    pub fn is_elf(head: &[u8]) -> bool {
        head.starts_with(b"\x7fELF")
    }
}

/// Reads an ELF file; `None` of what is none that a linker would load.
pub async fn read(files: &Files<'_>, file: &File) -> Result<Option<Program>, Error> {
    let head = files.head(file).await?;
    match FileKind::parse(&*head) {
        Ok(FileKind::Elf64) => read_as::<FileHeader64<Endianness>>(files, file, &head).await,
        Ok(FileKind::Elf32) => read_as::<FileHeader32<Endianness>>(files, file, &head).await,
        _ => Ok(None),
    }
}

async fn read_as<E>(files: &Files<'_>, file: &File, head: &[u8]) -> Result<Option<Program>, Error>
where
    E: FileHeader<Endian = Endianness>,
{
    let Some((layout, endian)) = layout::<E>(head) else { return Ok(None) };
    let piece = async |range: &Range<u64>| {
        let at = |offset: u64| usize::try_from(offset).ok();
        let here = at(range.start).zip(at(range.end)).and_then(|(start, end)| head.get(start..end));
        match here {
            Some(bytes) => Ok(bytes.to_vec()),
            None => files.read(file, range.clone()).await,
        }
    };
    let mut program = Program { relocated: layout.relocated.clone(), ..Program::default() };
    if let Some(range) = &layout.interpreter {
        program.interpreter = text(&piece(range).await?, 0);
    }
    let Some(range) = &layout.dynamic else { return Ok(Some(program)) };
    let dynamic = dynamic::<E>(&piece(range).await?, endian);
    let strings = dynamic.strings.and_then(|address| layout.place_of(address, dynamic.strings_len));
    let Some(strings) = strings else { return Ok(Some(program)) };
    let strings = piece(&strings).await?;
    program.needed = dynamic.needed.iter().filter_map(|&at| text(&strings, at)).collect();
    program.rpath = dynamic.rpath.and_then(|at| text(&strings, at));
    program.runpath = dynamic.runpath.and_then(|at| text(&strings, at));
    Ok(Some(program))
}

fn layout<E: FileHeader<Endian = Endianness>>(head: &[u8]) -> Option<(Layout, Endianness)> {
    let header = E::parse(head).ok()?;
    let endian = header.endian().ok()?;
    let mut layout = Layout::default();
    let mut is_before_code = true;
    for segment in header.program_headers(endian, head).ok()? {
        let (offset, len): (u64, u64) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
        let in_file = offset..offset.checked_add(len)?;
        let limited = || (len <= MAX_TABLE).then(|| in_file.clone());
        match segment.p_type(endian) {
            PT_INTERP if len <= PATH_MAX as u64 => layout.interpreter = Some(in_file),
            PT_DYNAMIC => layout.dynamic = limited(),
            PT_LOAD => {
                let address: u64 = segment.p_vaddr(endian).into();
                layout.loads.push((address..address.checked_add(len)?, offset));
                let flags = segment.p_flags(endian);
                is_before_code &= !flags.contains(PF_X);
                if is_before_code || flags.contains(PF_W) {
                    layout.relocated.push(in_file);
                }
            }
            _ => {}
        }
    }
    Some((layout, endian))
}

impl Layout {
    /// The bytes of a table at an address, if a segment holds all of it.
    fn place_of(&self, address: u64, len: u64) -> Option<Range<u64>> {
        let end = address.checked_add(len).filter(|_| len <= MAX_TABLE)?;
        let (memory, offset) =
            self.loads.iter().find(|(memory, _)| memory.start <= address && end <= memory.end)?;
        let start = offset.checked_add(address - memory.start)?;
        Some(start..start.checked_add(len)?)
    }
}

fn dynamic<E: FileHeader<Endian = Endianness>>(bytes: &[u8], endian: Endianness) -> Dynamic {
    let count = bytes.len() / size_of::<E::Dyn>();
    let Ok((entries, _)) = object::pod::slice_from_bytes::<E::Dyn>(bytes, count) else {
        return Dynamic::default();
    };
    let mut dynamic = Dynamic::default();
    for entry in entries {
        let value = entry.val(endian);
        match entry.tag(endian) {
            DT_NULL => break,
            DT_NEEDED if dynamic.needed.len() < MAX_NEEDED => dynamic.needed.push(value),
            DT_STRTAB => dynamic.strings = Some(value),
            DT_STRSZ => dynamic.strings_len = value,
            DT_RPATH => dynamic.rpath = Some(value),
            DT_RUNPATH => dynamic.runpath = Some(value),
            _ => {}
        }
    }
    dynamic
}

/// The text at an offset of a table, up to its NUL.
fn text(table: &[u8], at: u64) -> Option<String> {
    let rest = table.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(rest.get(..end)?).ok()?;
    (!text.is_empty() && text.len() <= PATH_MAX).then(|| text.to_owned())
}
