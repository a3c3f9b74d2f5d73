//! Reads that wait for their bytes are in nobody's way.

use std::fs;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use jaunt_formats::Digest;
use jaunt_layerfs::fuse::MountOptions;
use jaunt_layerfs::source::{ByteStream, MemorySource, Source};
use tokio::sync::Semaphore;

use crate::fixture::{Image, file, noise, symlink};
use crate::mounted::{Mounted, can_mount};

/// Far more than threads that serve a mount.
const READERS: usize = 32;
/// What takes longer than this never comes.
const NEVER: Duration = Duration::from_secs(60);

/// Gives nothing while the gate has no permit.
struct Gated {
    memory: MemorySource,
    gate: Arc<Semaphore>,
    /// Requests that wait, or are answered.
    open: Arc<()>,
}

impl Gated {
    /// A mounted image whose content comes from behind a gate, which is open while it is mounted.
    fn mounted(image: Image) -> (Mounted, Arc<Semaphore>, Arc<()>) {
        let blobs = image.blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into()));
        let (gate, open) = (Arc::new(Semaphore::new(1)), Arc::default());
        let source = Self { memory: MemorySource::new(blobs), gate: gate.clone(), open: Arc::clone(&open) };
        let options = MountOptions::default();
        let mounted = Mounted::of((image.index, image.layers), Arc::new(source), &options);
        // The complete chain has all it needs.
        assert_eq!(gate.forget_permits(1), 1);
        (mounted, gate, open)
    }
}

impl Source for Gated {
    fn name(&self) -> &str {
        self.memory.name()
    }

    fn host(&self) -> &str {
        self.memory.host()
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        let (gate, bytes, open) = (self.gate.clone(), self.memory.fetch(blob, range), self.open.clone());
        let pass = async move { drop(gate.acquire().await) };
        let bytes = pass.map(|()| bytes).flatten_stream();
        let held = move |piece| {
            let _ = &open;
            piece
        };
        bytes.map(held).boxed()
    }
}

#[test]
fn readers_that_wait_hold_up_nobody_who_asks_for_something_else() {
    if !can_mount() {
        return;
    }
    let names: Vec<String> = (0..READERS).map(|number| format!("file-{number}")).collect();
    let mut entries: Vec<_> =
        names.iter().zip(1..).map(|(name, seed)| file(name, noise(seed, 300_000))).collect();
    entries.push(symlink("link", "file-0"));
    let (mounted, gate, _) = Gated::mounted(Image::new(vec![entries]));
    let root = mounted.direct();
    let (told, read) = mpsc::channel();
    for (name, seed) in names.iter().zip(1..) {
        let (path, told) = (root.join(name), told.clone());
        thread::spawn(move || {
            // The kernel has its attributes: what comes now is a read.
            fs::metadata(&path).unwrap();
            told.send(None).unwrap();
            told.send(Some(fs::read(path).unwrap() == noise(seed, 300_000))).unwrap();
        });
    }
    (0..READERS).for_each(|_| assert_eq!(read.recv_timeout(NEVER).unwrap(), None));
    let (answered, others) = mpsc::channel();
    thread::spawn({
        let root = root.clone();
        move || {
            let listed = fs::read_dir(&root).unwrap().count();
            let target = fs::read_link(root.join("link")).unwrap();
            let missing = fs::metadata(root.join("missing")).is_err();
            answered.send((listed, target, missing)).unwrap();
        }
    });
    let answer = others.recv_timeout(NEVER);
    assert!(read.try_recv().is_err(), "no reader has anything yet");
    gate.add_permits(1);
    // Before anything else is looked at, so that no reader hangs.
    let right: Vec<_> = (0..READERS).map(|_| read.recv_timeout(NEVER).unwrap()).collect();
    assert_eq!(right, [Some(true); READERS]);
    assert_eq!(answer.unwrap(), (READERS + 1, "file-0".into(), true));
}

#[test]
fn a_reader_that_is_killed_ends_without_its_bytes_and_past_the_page_cache_with_them() {
    if !can_mount() {
        return;
    }
    let entries =
        ["cached", "direct"].into_iter().zip(1..).map(|(name, seed)| file(name, noise(seed, 300_000)));
    let (mounted, gate, open) = Gated::mounted(Image::new(vec![entries.collect()]));
    let from = |name: &str| format!("if={}", mounted.direct().join(name).display());
    let mut killed = [from("cached"), from("direct")].map(|from| {
        let (before, direct) = (Arc::strong_count(&open), from.ends_with("direct"));
        let flags: &[&str] = if direct { &["iflag=direct"] } else { &[] };
        let reader =
            Command::new("dd").arg(from).args(flags).arg("of=/dev/null").stderr(Stdio::null()).spawn();
        until(|| Arc::strong_count(&open) > before);
        reader.unwrap()
    });
    killed.iter_mut().for_each(|reader| reader.kill().unwrap());
    let [cached, direct] = &mut killed;
    until(|| cached.try_wait().unwrap().is_some());
    assert!(Arc::strong_count(&open) > 3, "what it was reading is still being fetched");
    let waits = direct.try_wait().unwrap().is_none();
    gate.add_permits(1);
    until(|| direct.try_wait().unwrap().is_some());
    assert!(waits);
}

fn until(happened: impl FnMut() -> bool) {
    let (mut happened, begun) = (happened, Instant::now());
    while !happened() {
        assert!(begun.elapsed() < NEVER, "it never comes");
        thread::sleep(Duration::from_millis(5));
    }
}
