//! What a start touched of its image, and how few bytes that can be: what the bytes before ready are held against.
//!
//! Computed without any pack: the pages that a trace names, each once and in the order of their first touch, are read from the image's unpacked
//! files and compressed as hard as packs are, in frames as long as theirs.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use jaunt_formats::boot::{PACK_LEVEL, Trace};
use jaunt_tests::error::{At as _, Error, Result};
use serde::{Deserialize, Serialize};

const PAGE_LEN: usize = 4096;
const PAGE: u64 = PAGE_LEN as u64;
/// Bytes of content in most frames of a pack.
const FRAME: usize = 1 << 20;
/// Between a mount and the first file that is opened there, runc makes a container.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What one start touched, compressed, in bytes. Field names are the keys of the JSON, and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// As a node notes it by default: what its kernel reads ahead of a traced start is in it.
    pub noted_bytes: u64,
    /// Of a start of which nothing is read ahead.
    pub page_bytes: u64,
}

/// Compressed bytes of the pages that a trace in a file names, of an image whose files lie below `tree`.
pub fn compressed(trace: &Path, tree: &Path) -> Result<u64> {
    let text = fs::read(trace).at(trace)?;
    let parsed = Trace::parse(&text);
    let parsed = parsed.map_err(|error| Error::unexpected(trace.display().to_string(), error.to_string()))?;
    let (mut seen, mut content, mut sum) = (HashSet::new(), Vec::with_capacity(FRAME), 0);
    for touch in &parsed.touches {
        let path = tree.join(&touch.path);
        let file = File::open(&path).at(&path)?;
        for page in touch.offset / PAGE..touch.offset.saturating_add(touch.len).div_ceil(PAGE) {
            if seen.insert((&touch.path, page)) {
                let mut bytes = [0; PAGE_LEN];
                let len = file.read_at(&mut bytes, page * PAGE).at(&path)?;
                content.extend_from_slice(&bytes[..len]);
            }
            if content.len() >= FRAME {
                sum += squeezed(&content)?;
                content.clear();
            }
        }
    }
    Ok(sum + squeezed(&content)?)
}

fn squeezed(content: &[u8]) -> Result<u64> {
    let frame = zstd::bulk::compress(content, PACK_LEVEL).at("what a start touched")?;
    Ok(if content.is_empty() { 0 } else { frame.len() as u64 })
}

/// Does the work while the kernel reads nothing ahead of what is mounted below `dir`, from when that appears: also a mount of which a start
/// is traced is read ahead of.
pub fn without_read_ahead<T>(dir: &Path, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                for number in fuse_mounts(&mounts, dir) {
                    // Gone meanwhile, or not made yet.
                    let _ = fs::write(format!("/sys/class/bdi/{number}/read_ahead_kb"), "0");
                }
                thread::sleep(LOOK_EVERY);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// The device numbers, `MAJOR:MINOR`, of FUSE mounts below a directory.
fn fuse_mounts<'m>(mountinfo: &'m str, dir: &'m Path) -> impl Iterator<Item = &'m str> {
    mountinfo.lines().filter_map(move |line| {
        let (place, what) = line.split_once(" - ")?;
        let mut words = place.split(' ').skip(2);
        let (number, point) = (words.next()?, words.nth(1)?);
        (what.starts_with("fuse") && Path::new(point).starts_with(dir)).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use jaunt_formats::Digest;
    use jaunt_formats::boot::{Touch, TraceHead};
    use jaunt_tests::Dice;

    use super::*;

    #[test]
    fn pages_count_once_and_only_as_far_as_the_file_reaches() {
        let dir = tempfile::tempdir().unwrap();
        let mut dice = Dice::new(1);
        let bytes: Vec<u8> =
            std::iter::repeat_with(|| dice.roll().to_le_bytes()).take(1500).flatten().collect();
        fs::write(dir.path().join("random"), &bytes).unwrap();
        let touch = |offset, len| Touch { path: "random".to_owned(), offset, len, ms: 0 };
        let size = |touches| {
            let head = TraceHead::new("r/a".to_owned(), Digest::of(b""), 1);
            let file = dir.path().join("trace");
            fs::write(&file, Trace { head, touches }.to_text()).unwrap();
            compressed(&file, dir.path()).unwrap()
        };
        // What is random does not get smaller.
        let about = |size: u64, content: u64| assert!((content..content + 64).contains(&size), "{size}");
        about(size(vec![touch(0, 1)]), PAGE);
        about(size(vec![touch(0, 1), touch(100, 4000), touch(4095, 2)]), 2 * PAGE);
        about(size(vec![touch(0, 1), touch(0, 1 << 20)]), 12_000);
        assert_eq!(size(Vec::new()), 0);
    }

    #[test]
    fn mounts_are_found_by_their_kind_and_place() {
        let mountinfo = "36 35 0:52 / /s/run/mounts/1 ro,nodev - fuse jaunt ro\n\
            37 35 0:53 / /s/run/other ro shared:7 - overlay overlay ro\n\
            38 35 0:54 / /elsewhere ro - fuse jaunt ro\nnonsense\n";
        assert_eq!(fuse_mounts(mountinfo, Path::new("/s/run")).collect::<Vec<_>>(), ["0:52"]);
    }
}
