//! ELF files of an image: what their dynamic linker needs to know, and what loading them touches.

use std::ops::Range;

use jaunt_formats::elf::{Head, Names, name};

use super::files::{File, Files};
use crate::error::Error;

/// What an ELF file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The linker that loads it, if it is a program.
    pub interpreter: Option<String>,
    /// Libraries, and where they are.
    pub names: Names,
    /// Ranges of the file that linking goes through: tables before the code, and data that is relocated.
    pub relocated: Vec<Range<u64>>,
}

/// Reads an ELF file; `None` of what is none that a linker would load.
pub async fn read(files: &Files<'_>, file: &File) -> Result<Option<Program>, Error> {
    let beginning = files.head(file).await?;
    let Some(head) = Head::parse(&beginning) else { return Ok(None) };
    let piece = async |range: &Range<u64>| {
        let at = |offset: u64| usize::try_from(offset).ok();
        let here = at(range.start).zip(at(range.end)).and_then(|(start, end)| beginning.get(start..end));
        match here {
            Some(bytes) => Ok(bytes.to_vec()),
            None => files.read(file, range.clone()).await,
        }
    };
    let mut program = Program { relocated: relocated(&head), ..Program::default() };
    if let Some(range) = &head.interpreter {
        program.interpreter = name(&piece(range).await?);
    }
    let Some(range) = &head.dynamic else { return Ok(Some(program)) };
    let dynamic = head.read_dynamic(&piece(range).await?);
    if let Some(strings) = &dynamic.strings {
        program.names = dynamic.names(&piece(strings).await?);
    }
    Ok(Some(program))
}

/// Everything before the code, and what is written to.
fn relocated(head: &Head) -> Vec<Range<u64>> {
    let code = head.segments.iter().position(|segment| segment.is_executable);
    let before = code.unwrap_or(head.segments.len());
    let touched =
        head.segments.iter().enumerate().filter(|(at, segment)| *at < before || segment.is_writable);
    touched.map(|(_, segment)| segment.file.clone()).collect()
}
