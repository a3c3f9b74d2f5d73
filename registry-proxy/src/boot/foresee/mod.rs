//! What an image's start will touch, as far as the image itself tells: a trace of a start that nobody has made yet.
//!
//! ```text
//! config: Entrypoint, Cmd, PATH, WorkingDir   ->  the program, and files that its words name      (command)
//! a script's first line                       ->  its interpreter
//! an ELF file's program headers, DT_NEEDED    ->  the dynamic linker, libraries and theirs in turn  (elf, search)
//! ```
//!
//! That is what every start reads one after the other, and so waits for one after the other: a linker learns of a library only
//! from the one before. What a program does then is left to traces of real starts.
//!
//! The image is a stranger's: nothing it says makes more work than the limits here, and what cannot be followed ends that path alone.

mod command;
mod elf;
mod files;
mod search;

use std::collections::{HashSet, VecDeque};

use jaunt_formats::Digest;
use jaunt_formats::boot::{Touch, Trace, TraceHead};
use jaunt_formats::elf::is_elf;
use jaunt_formats::launch::LaunchIndex;

use crate::error::Error;
use crate::manifest::Command;
use crate::place::Place;
use command::Shebang;
use elf::Program;
use files::{File, Files};
use search::Search;

/// Files that are followed; Debian's largest programs need fewer than 200.
const MAX_FILES: usize = 512;
/// A file of at most this length is touched from end to end: the kernel reads up to 1 MiB around what is touched.
const WHOLE: u64 = 3 << 20;
/// Of larger ones, what is touched is as coarse as that.
const GRAIN: u64 = 1 << 20;
/// runc reads them before the program runs, the linker and the C library before `main`.
const BEFORE: [&str; 2] = ["/etc/passwd", "/etc/group"];
const LINKER_CACHE: &str = "/etc/ld.so.cache";
const BY_LIBRARY: [&str; 2] = ["/etc/nsswitch.conf", "/etc/localtime"];

/// The trace of a start with this command; without touches where nothing can be told.
pub async fn foresee(
    place: &Place,
    (digest, index): (Digest, &LaunchIndex<Vec<u8>>),
    command: &Command,
) -> Result<Trace, Error> {
    let files = Files::new(place, index)?;
    let mut start = Start {
        search: Search::new(command.variable("LD_LIBRARY_PATH")),
        files,
        seen: HashSet::new(),
        touches: Vec::new(),
    };
    for path in BEFORE {
        start.whole(path);
    }
    let known = start.touches.len();
    start.command(command).await?;
    if start.touches.len() > known {
        BY_LIBRARY.iter().for_each(|path| start.whole(path));
    } else {
        start.touches.clear();
    }
    let prefix = u16::try_from(index.layers().len()).unwrap_or(u16::MAX);
    let head = TraceHead::new("the image's own command".to_owned(), digest, prefix);
    Ok(Trace { head, touches: start.touches })
}

/// A start as far as it has been followed.
struct Start<'s> {
    files: Files<'s>,
    search: Search,
    /// Paths that have been touched.
    seen: HashSet<String>,
    touches: Vec<Touch>,
}

impl Start<'_> {
    /// The program that is run, then what the other words name, which it reads itself.
    async fn command(&mut self, command: &Command) -> Result<(), Error> {
        for (at, word) in command.words().enumerate() {
            let found = match at {
                0 => command::program(&self.files, command, word),
                _ => command::operand(&self.files, command, word),
            };
            if let Some(file) = found {
                self.run(file).await?;
            }
        }
        Ok(())
    }

    /// A file that is executed: a program, or a script with its interpreter.
    async fn run(&mut self, file: File) -> Result<(), Error> {
        let mut next = Some(file);
        // The kernel follows four interpreters.
        for _ in 0..5 {
            let Some(file) = next.take() else { break };
            let head = self.files.head(&file).await?;
            if let Some(Shebang { interpreter, program }) = command::shebang(&head) {
                self.touch(&file, 0..file.len().min(WHOLE));
                // `#!/usr/bin/env node` runs what `env` finds.
                if let Some(program) = program.and_then(|name| command::in_standard_path(&self.files, name)) {
                    self.link(program).await?;
                }
                next = self.files.find(interpreter);
            } else if is_elf(&head) {
                self.link(file).await?;
            } else {
                self.touch(&file, 0..file.len().min(WHOLE));
            }
        }
        Ok(())
    }

    /// A program with everything that its linker brings, in the order in which that does.
    async fn link(&mut self, file: File) -> Result<(), Error> {
        let mut known = HashSet::from([file.path().to_owned()]);
        let mut queue = VecDeque::from([file]);
        let mut is_program = true;
        while let Some(file) = queue.pop_front() {
            if self.seen.contains(file.path()) || self.seen.len() >= MAX_FILES {
                continue;
            }
            let Some(program) = elf::read(&self.files, &file).await? else { continue };
            self.loaded(&file, &program);
            if let Some(linker) = program.interpreter.as_deref().and_then(|path| self.files.find(path)) {
                self.search.beside(&linker);
                self.search.configured(&self.files).await?;
                if let Some(loaded) = elf::read(&self.files, &linker).await? {
                    self.loaded(&linker, &loaded);
                }
            }
            if std::mem::take(&mut is_program) && program.interpreter.is_some() {
                self.whole(LINKER_CACHE);
            }
            for name in &program.names.needed {
                let found = self.search.library(&self.files, &file, &program, name);
                queue.extend(found.filter(|library| known.insert(library.path().to_owned())));
            }
        }
        Ok(())
    }

    /// What loading an ELF file touches: all of a small one; of a larger one tables and data, which relocation goes through.
    fn loaded(&mut self, file: &File, program: &Program) {
        if file.len() <= WHOLE {
            return self.touch(file, 0..file.len());
        }
        for range in &program.relocated {
            let (start, end) =
                (range.start / GRAIN * GRAIN, range.end.next_multiple_of(GRAIN).min(file.len()));
            self.touch(file, start..end);
        }
    }

    fn whole(&mut self, path: &str) {
        if let Some(file) = self.files.find(path) {
            self.touch(&file, 0..file.len().min(WHOLE));
        }
    }

    fn touch(&mut self, file: &File, range: std::ops::Range<u64>) {
        self.seen.insert(file.path().to_owned());
        if !range.is_empty() {
            let (offset, len) = (range.start, range.end - range.start);
            self.touches.push(Touch { path: file.path().to_owned(), offset, len, ms: 0 });
        }
    }
}
