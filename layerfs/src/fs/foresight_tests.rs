//! Of large files, programs are read otherwise than data.

use std::sync::Arc;
use std::time::Duration;

use jaunt_formats::launch;
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{Content, Entry, EntryKind, EntryPath, TarOffset, Timestamp};

use crate::fs::programs::tests::head;
use crate::fs::{Ino, LayerFs, MOUNT_ROOT, RootPlace};
use crate::index_file::open_index;
use crate::layers::{Layers, Settings};
use crate::source::{MemorySource, Source};
use crate::testing::{Fixture, SPAN};

const MIB: u64 = 1 << 20;
const LEN: u64 = 16 * MIB;
/// A linker's: what is read, executed and written to.
const SEGMENTS: [(u32, u64, u64); 3] = [(4, 0, 2 * MIB), (5, 2 * MIB, 8 * MIB), (6, 14 * MIB, 100_000)];

/// A mounted file of noise that begins with `head`.
fn mounted(head: &[u8]) -> (Fixture, Arc<MemorySource>, LayerFs, Ino) {
    let mut tar = Fixture::new(usize::try_from(LEN).unwrap() / SPAN + 1).tar;
    tar[..head.len()].copy_from_slice(head);
    let fixture = Fixture::of(tar);
    let path = EntryPath::parse(b"file").unwrap();
    let kind = EntryKind::Regular { size: LEN, content: Content::Contiguous(TarOffset(0)) };
    let mtime = Timestamp::default();
    let mut tree = TreeBuilder::new();
    tree.push_layer(vec![Entry { path, kind, mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() }])
        .unwrap();
    let index = fixture.store.root().join("index");
    std::fs::write(&index, launch::write(std::slice::from_ref(&fixture.layer), tree.finish()).unwrap())
        .unwrap();
    let source = fixture.memory();
    let sources: [Arc<dyn Source>; 1] = [source.clone()];
    let layers = Layers::new(fixture.store.clone(), Settings::default());
    let fs = LayerFs::new(open_index(&index).unwrap(), 1, "test".to_owned(), &layers, &sources).unwrap();
    let fs = fs.with_root(RootPlace::AtMount);
    let file = fs.lookup(MOUNT_ROOT, b"file").unwrap().unwrap();
    (fixture, source, fs, file)
}

#[tokio::test]
async fn who_has_read_a_programs_head_finds_all_that_its_loader_touches() {
    let (_fixture, _source, fs, file) = mounted(&head(&SEGMENTS));
    let read = fs.read(file, 0, 4096).await.unwrap();
    assert!(fs.loading(file, 4096, &read).is_none(), "it is no head");
    fs.loading(file, 0, &read).unwrap().await;
    assert!(fs.read_local(file, 0, 1 << 20).unwrap().is_some());
    assert!(fs.read_local(file, 14 * MIB, 100_000).unwrap().is_some());
    assert!(fs.read_local(file, 8 * MIB, 1).unwrap().is_none());
    assert!(fs.loading(file, 0, &read).is_none(), "nothing is missing");
}

#[tokio::test(start_paused = true)]
async fn two_near_misses_bring_what_lies_around_them_in_a_large_program_and_not_in_data() {
    for (begins, is_program) in [(head(&SEGMENTS), true), (b"SQLite format 3".to_vec(), false)] {
        let (_fixture, source, fs, file) = mounted(&begins);
        let read = fs.read(file, 0, 4096).await.unwrap();
        if let Some(loading) = fs.loading(file, 0, &read) {
            loading.await;
        }
        let before = source.fetches();
        for at in [8 * MIB, 8 * MIB + 4 * SPAN as u64] {
            fs.read(file, at, 4096).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let around = fs.read_local(file, 8 * MIB, 1 << 19).unwrap().is_some();
        assert_eq!(around, is_program);
        assert!(is_program || source.fetches() == before + 2);
    }
}
