//! Disks that are full, read-only or not there.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rustix::mount::{MountFlags, mount_remount};

use super::*;
use crate::small_disk::SmallDisk;

const SPAN: u64 = 512 << 10;

/// doc/SEMANTICS.md B4.
#[test]
fn a_full_disk_keeps_what_it_has_and_makes_room() {
    let Some(disk) = SmallDisk::new(c"size=8m") else { return };
    let store = Store::open(disk.path()).unwrap();
    let now = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let [old, new] = [[(0, SPAN); 12].as_slice(), &[(0, SPAN); 10]].map(|spans| Fixture::new(spans, &[]));
    store.maintain(now(100)).unwrap();
    let first = store.layer(&old.layer, &old.large);
    (0..12).for_each(|span| old.keep(&first, span));
    store.maintain(now(200)).unwrap();
    let second = store.layer(&new.layer, &new.large);
    let keep = |span: usize| {
        let range = new.layer.spans[span].tar_range();
        second.keep(&trusted(range.start, new.slice(&range)))
    };
    let kept: Vec<bool> = (0..10).map(|span| keep(span).is_ok()).collect();
    assert!(kept[0] && !kept[9], "{kept:?}");
    assert!(store.counters().unkept_bytes.load(Ordering::Relaxed) > 0);
    for (span, kept) in kept.iter().enumerate() {
        let range = new.layer.spans[span].tar_range();
        assert_eq!(second.read(&range).map(|bytes| bytes == new.slice(&range)), kept.then_some(true));
    }

    store.maintain(now(205)).unwrap();
    assert!(first.present_bytes() < 12 * SPAN, "the older layer has made room");
    (0..10).for_each(|span| keep(span).unwrap());
    assert_eq!(second.read(&(0..10 * SPAN)).unwrap(), new.tar);
}

#[test]
fn a_full_disk_is_no_reason_not_to_start() {
    let Some(disk) = SmallDisk::new(c"size=1m") else { return };
    let mut hog = fs::File::create(disk.path().join("hog")).unwrap();
    while std::io::Write::write_all(&mut hog, &[1; 4096]).is_ok() {}
    let fixture = Fixture::new(&[(0, SPAN)], &[]);
    let store = Store::open(disk.path()).unwrap();
    let file = store.layer(&fixture.layer, &fixture.large);
    let whole = 0..SPAN;
    file.keep(&trusted(0, fixture.slice(&whole))).unwrap_err();
    assert!(!file.has(&whole) && file.read(&whole).is_none());
    drop(hog);
    fs::remove_file(disk.path().join("hog")).unwrap();
    file.keep(&trusted(0, fixture.slice(&whole))).unwrap();
    assert_eq!(file.read(&whole).unwrap(), fixture.tar);
}

#[test]
fn a_directory_that_cannot_be_used_is_a_clear_error_at_start() {
    let in_the_way = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(&in_the_way.path().join("layers")).map(drop).unwrap_err();
    assert!(error.to_string().contains("layers: cannot create the directory"), "{error}");

    let Some(disk) = SmallDisk::new(c"size=1m") else { return };
    mount_remount(disk.path(), MountFlags::RDONLY, c"").unwrap();
    let error = Store::open(disk.path()).map(drop).unwrap_err();
    assert!(error.to_string().contains("cannot write to it"), "{error}");
    assert_eq!(error.source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}
