//! The programs that make a container, read ahead while its image is resolved: on a node that has started nothing for a while they are
//! not in the page cache, and each container waits for the disk twice before its own program runs.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

/// Where programs are looked for, besides the absolute paths that the configuration may give.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// A program that is larger is no container runtime.
const LARGEST: u64 = 256 << 20;

/// Has the disk read programs, by name or path, as far as they are there and not in the page cache. Does not wait for it.
pub(super) fn read_ahead(programs: &[PathBuf]) {
    for file in programs.iter().filter_map(|program| find(program)) {
        // Whatever comes of it, nobody depends on it.
        let _ = fadvise(&file, 0, None, Advice::WillNeed);
    }
}

fn find(program: &Path) -> Option<File> {
    DIRECTORIES.iter().find_map(|directory| open(&Path::new(directory).join(program)))
}

/// A program's file: a pipe or a device would hold up who opens it.
fn open(path: &Path) -> Option<File> {
    let about = std::fs::metadata(path).ok()?;
    let is_program = about.is_file() && about.len() <= LARGEST;
    is_program.then(|| File::open(path).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_nothing_else_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        std::fs::write(path("program"), "x").unwrap();
        File::create(path("large")).unwrap().set_len(LARGEST + 1).unwrap();
        // Opening it would wait for whoever writes to it.
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        assert!(find(&path("program")).is_some() && find(Path::new("sh")).is_some());
        let none = [path("large"), path("pipe"), directory.path().to_owned(), "no-such-runtime".into()];
        assert!(none.iter().all(|program| find(program).is_none()));
        read_ahead(&[&none[..], &[path("program")]].concat());
    }
}
