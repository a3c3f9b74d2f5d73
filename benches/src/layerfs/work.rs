//! What is done to a root file system: the same to each, with the same programs.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::ValueEnum as _;
use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::{Dice, process};

/// Files of this size are read sequentially, at random and mapped.
const LARGE: u64 = 1 << 20;
/// So much of them is enough to tell.
const ENOUGH: u64 = 256 << 20;
/// Texts of this size are read line by line: images have few that are larger.
const TEXT: u64 = 128 << 10;
/// Reads of 4 KiB at random: of what is in the page cache, and of what is not.
const RANDOM_READS: [u64; 2] = [100_000, 2_000];
/// How often everything is looked up and its attributes asked for in a storm.
const STORM: usize = 3;
const PAGE: usize = 4096;

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Row {
    /// `find` of everything.
    Find,
    /// `lstat` of every path, three times.
    Stat,
    /// `tar` of everything into a pipe.
    Tar,
    /// Large files from end to end, 1 MiB at a time.
    Sequential,
    /// 4 KiB at random places of large files.
    Random,
    /// A byte of every page of large files, mapped.
    Mmap,
    /// Lines of large texts, counted by `sed`: the C library reads as much at a time as `st_blksize` says, but no more
    /// than 8 KiB.
    Lines,
    /// `python3 -c 'import pandas'` in a chroot.
    Python,
}

/// Whether the page cache has what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// It has.
    Warm,
    /// It was dropped.
    Cold,
}

/// What there is to work on: the same below every root.
#[derive(Clone, Debug)]
pub struct Paths {
    all: Vec<PathBuf>,
    large: Vec<(PathBuf, u64)>,
    texts: Vec<PathBuf>,
    python: bool,
}

impl Paths {
    /// What lies below `root`.
    pub fn below(root: &Path) -> Result<Self> {
        let mut paths = Self { all: Vec::new(), large: Vec::new(), texts: Vec::new(), python: false };
        paths.walk(root, Path::new(""))?;
        paths.all.sort();
        paths.texts.sort();
        // Those in the middle of the list: not one program's alone.
        paths.large.sort();
        let mut left = ENOUGH;
        paths.large.retain(|(_, len)| {
            let fits = *len <= left;
            left -= if fits { *len } else { 0 };
            fits
        });
        paths.python = root.join("usr/bin/python3").exists();
        Ok(paths)
    }

    /// The kinds of work that it allows.
    pub fn rows(&self) -> Vec<Row> {
        let possible = |row: &Row| match row {
            Row::Sequential | Row::Random | Row::Mmap => !self.large.is_empty(),
            Row::Lines => !self.texts.is_empty(),
            Row::Python => self.python,
            _ => true,
        };
        Row::value_variants().iter().copied().filter(possible).collect()
    }

    fn walk(&mut self, root: &Path, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(root.join(dir)).at(dir)? {
            let entry = entry.at(dir)?;
            let (path, kind) = (dir.join(entry.file_name()), entry.file_type().at(dir)?);
            if kind.is_dir() {
                self.walk(root, &path)?;
            } else if kind.is_file() {
                let len = entry.metadata().at(&path)?.len();
                if len >= LARGE {
                    self.large.push((path.clone(), len));
                }
                if len >= TEXT && is_text(&root.join(&path))? {
                    self.texts.push(path.clone());
                }
            }
            self.all.push(path);
        }
        Ok(())
    }
}

impl Row {
    /// What a table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Stat => "stat storm",
            Self::Tar => "tar of the tree",
            Self::Sequential => "sequential reads",
            Self::Random => "random 4 KiB reads",
            Self::Mmap => "mmap reads",
            Self::Lines => "lines of large texts by stdio",
            Self::Python => "python importing pandas",
        }
    }

    /// Does it, and returns the seconds it took and a number that says what was found: the same for every root.
    pub fn run(self, root: &Path, paths: &Paths, cache: Cache) -> Result<(f64, u64)> {
        let begun = Instant::now();
        let found = match self {
            Self::Find => output(Command::new("find").arg(".").current_dir(root)),
            Self::Stat => storm(root, paths),
            Self::Tar => output(Command::new("tar").args(["-cf", "-", "."]).current_dir(root)),
            Self::Sequential => sequential(root, paths),
            Self::Random => random(root, paths, RANDOM_READS[usize::from(cache == Cache::Cold)]),
            Self::Mmap => mapped(root, paths),
            Self::Lines => lines(root, paths),
            Self::Python => output(&mut python(root)),
        }?;
        Ok((begun.elapsed().as_secs_f64(), found))
    }
}

fn python(root: &Path) -> Command {
    let mut command = Command::new("chroot");
    command.arg(root).args(["/usr/bin/python3", "-c", "import pandas; print(pandas.__name__)"]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// How much a program writes, all of which is read.
fn output(command: &mut Command) -> Result<u64> {
    let line = process::line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Spawn { command: line.clone(), source })?;
    let mut written = 0;
    if let Some(mut stdout) = child.stdout.take() {
        let mut buffer = vec![0; 1 << 20];
        loop {
            match stdout.read(&mut buffer).at(&line)? {
                0 => break,
                len => written += len as u64,
            }
        }
    }
    let status = child.wait().at(&line)?;
    match status.success() {
        true => Ok(written),
        false => Err(Error::Failed { command: line, status, stderr: String::new() }),
    }
}

fn storm(root: &Path, paths: &Paths) -> Result<u64> {
    let mut sum = 0;
    for path in paths.all.iter().cycle().take(STORM * paths.all.len()) {
        let stat = fs::symlink_metadata(root.join(path)).at(path)?;
        // A directory's size is its file system's own business.
        sum += if stat.is_dir() { 1 } else { stat.len() };
    }
    Ok(sum)
}

fn sequential(root: &Path, paths: &Paths) -> Result<u64> {
    let (mut buffer, mut sum) = (vec![0; 1 << 20], 0);
    for (path, _) in &paths.large {
        let mut file = File::open(root.join(path)).at(path)?;
        loop {
            match file.read(&mut buffer).at(path)? {
                0 => break,
                len => sum += len as u64 + u64::from(buffer[len / 2]),
            }
        }
    }
    Ok(sum)
}

fn random(root: &Path, paths: &Paths, reads: u64) -> Result<u64> {
    let open = |(path, len): &(PathBuf, u64)| Ok((File::open(root.join(path)).at(path)?, *len));
    let files: Vec<(File, u64)> = paths.large.iter().map(open).collect::<Result<_>>()?;
    let (mut dice, mut buffer, mut sum) = (Dice::new(1), [0; PAGE], 0);
    for _ in 0..reads {
        let rolled = dice.roll();
        let (file, len) = &files[usize::try_from(rolled >> 32).unwrap_or(0) % files.len()];
        let page = rolled % (len / PAGE as u64);
        file.read_exact_at(&mut buffer, page * PAGE as u64).at(root)?;
        sum += u64::from(buffer[PAGE / 2]);
    }
    Ok(sum)
}

fn mapped(root: &Path, paths: &Paths) -> Result<u64> {
    let mut sum = 0;
    for (path, _) in &paths.large {
        let map = map(&File::open(root.join(path)).at(path)?).at(path)?;
        sum += map.chunks(PAGE).map(|page| u64::from(page[page.len() / 2])).sum::<u64>();
    }
    Ok(sum)
}

/// How many there are in all.
fn lines(root: &Path, paths: &Paths) -> Result<u64> {
    let mut sed = Command::new("sed");
    // Where characters have several bytes, most of the time would be sed's own.
    sed.args(["-n", "--", "$="]).args(&paths.texts).current_dir(root).env("LC_ALL", "C");
    let told = process::run(&mut sed)?;
    told.trim().parse().map_err(|_| Error::unexpected("sed", format!("counts {told:?} lines")))
}

/// Whether a file begins as a text of lines.
fn is_text(path: &Path) -> Result<bool> {
    let mut first = Vec::with_capacity(PAGE);
    File::open(path).at(path)?.take(PAGE as u64).read_to_end(&mut first).at(path)?;
    Ok(first.contains(&b'\n') && !first.contains(&0))
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: files of an image do not change or shrink while their mount is measured.
    unsafe { memmap2::Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_needs_no_root_finds_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/large"), vec![7; 3 << 20]).unwrap();
        fs::write(dir.path().join("small"), b"text").unwrap();
        let paths = Paths::below(dir.path()).unwrap();
        assert_eq!(paths.all.len(), 3);
        let rows = paths.rows();
        assert!(rows.contains(&Row::Mmap) && !rows.contains(&Row::Lines) && !rows.contains(&Row::Python));
        for row in rows {
            let run = |cache| row.run(dir.path(), &paths, cache).unwrap().1;
            assert_eq!(run(Cache::Cold), run(Cache::Cold), "{row:?}");
        }
        let found = |row: Row| row.run(dir.path(), &paths, Cache::Cold).unwrap().1;
        assert_eq!(found(Row::Sequential), (3 << 20) + 3 * 7);
        assert_eq!((found(Row::Mmap), found(Row::Random)), (768 * 7, 2_000 * 7));
        assert_eq!(found(Row::Stat), 3 * (1 + (3 << 20) + 4));
    }

    #[test]
    fn lines_are_counted_of_all_that_is_text_and_large() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("one"), "a line\n".repeat(20_000)).unwrap();
        fs::write(path("-n"), "another line\n".repeat(30_000)).unwrap();
        fs::write(path("small"), "a line\n").unwrap();
        fs::write(path("binary"), "line\n\0\n".repeat(20_000)).unwrap();
        let paths = Paths::below(dir.path()).unwrap();
        assert_eq!(paths.texts, [Path::new("-n"), Path::new("one")]);
        assert!(paths.rows().contains(&Row::Lines));
        assert_eq!(Row::Lines.run(dir.path(), &paths, Cache::Warm).unwrap().1, 50_000);
    }
}
