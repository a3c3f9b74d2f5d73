//! Reads that wait for their bytes are in nobody's way.

use std::fs;
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

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
}

impl Source for Gated {
    fn name(&self) -> &str {
        self.memory.name()
    }

    fn host(&self) -> &str {
        self.memory.host()
    }

    fn fetch(&self, blob: Digest, range: Range<u64>) -> ByteStream {
        let (gate, bytes) = (self.gate.clone(), self.memory.fetch(blob, range));
        let open = async move { drop(gate.acquire().await) };
        open.map(|()| bytes).flatten_stream().boxed()
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
    let image = Image::new(vec![entries]);
    let blobs = image.blobs.into_iter().map(|(digest, bytes)| (digest, bytes.into()));
    let gate = Arc::new(Semaphore::new(1));
    let source = Gated { memory: MemorySource::new(blobs), gate: gate.clone() };
    let options = MountOptions::default();
    let mounted = Mounted::of((image.index, image.layers), Arc::new(source), &options);
    // The complete chain has all it needs.
    assert_eq!(gate.forget_permits(1), 1);
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
