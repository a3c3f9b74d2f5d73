//! The command of an image's config: which file it runs, and which files its words name.

use super::files::{File, Files};
use crate::manifest::Command;

/// Where programs are looked for when the config says nothing, and by `env`.
const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel reads no longer a first line.
const FIRST_LINE: usize = 256;

/// A script's first line.
#[derive(Debug, PartialEq, Eq)]
pub struct Shebang<'s> {
    /// What the kernel runs.
    pub interpreter: &'s str,
    /// What that runs in turn, if it is `env`.
    pub program: Option<&'s str>,
}

/// The file that a command's first word runs.
pub fn program(files: &Files<'_>, command: &Command, word: &str) -> Option<File> {
    if word.contains('/') {
        return files.find(&below(command, word));
    }
    in_path(files, command.variable("PATH").unwrap_or(STANDARD_PATH), word)
}

/// The file that another word names: an argument, or a program that a script of an entry point runs at last.
pub fn operand(files: &Files<'_>, command: &Command, word: &str) -> Option<File> {
    if word.is_empty() || word.starts_with('-') {
        return None;
    }
    files.find(&below(command, word)).or_else(|| {
        let named = !word.contains('/');
        named.then(|| program(files, command, word)).flatten()
    })
}

/// A program by its name, where programs usually are.
pub fn in_standard_path(files: &Files<'_>, name: &str) -> Option<File> {
    in_path(files, STANDARD_PATH, name)
}

fn in_path(files: &Files<'_>, path: &str, name: &str) -> Option<File> {
    path.split(':').take(64).find_map(|dir| files.find(&format!("{dir}/{name}")))
}

fn below(command: &Command, word: &str) -> String {
    if word.starts_with('/') { word.to_owned() } else { format!("{}/{word}", command.working_dir()) }
}

/// The first line of a script, if that is what `head` begins.
pub fn shebang(head: &[u8]) -> Option<Shebang<'_>> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.get(..line.len().min(FIRST_LINE))?.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let interpreter = words.next()?;
    let is_env = interpreter.rsplit('/').next() == Some("env");
    let program = words.find(|word| is_env && !word.starts_with('-') && !word.contains('='));
    Some(Shebang { interpreter, program })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_script_is_told_and_what_env_runs() {
        let of = |text: &'static str| {
            shebang(text.as_bytes()).map(|Shebang { interpreter, program }| (interpreter, program))
        };
        assert_eq!(of("#!/bin/sh\nexec \"$@\"\n"), Some(("/bin/sh", None)));
        assert_eq!(of("#! /bin/sh -e"), Some(("/bin/sh", None)));
        assert_eq!(of("#!/usr/bin/env node\n"), Some(("/usr/bin/env", Some("node"))));
        assert_eq!(of("#!/usr/bin/env -S A=b python3 -u\n"), Some(("/usr/bin/env", Some("python3"))));
        for none in ["", "#", "#!", "#!\n/bin/sh", "\x7fELF", " #!/bin/sh"] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
