//! Registries that are away, disks that are full, and bytes that are lost on the way.

use std::sync::atomic::AtomicBool;

use futures_util::StreamExt as _;

use super::*;
use crate::small_disk::SmallDisk;
use crate::source::Trouble;
use crate::store::Cap;
use crate::testing::error;

/// A source that can be switched off.
fn switched(image: &Image) -> (Arc<dyn Source>, Arc<AtomicBool>, Asked) {
    let (inner, asked) = noting(image);
    let on = Arc::new(AtomicBool::new(false));
    let is_on = on.clone();
    let source = FnSource::source("switched", move |blob, range| match is_on.load(Ordering::Relaxed) {
        true => inner.fetch(blob, range),
        false => futures_util::stream::iter([Err(error(blob, range, Trouble::Broken))]).boxed(),
    });
    (source, on, asked)
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_is_waited_for_with_growing_pauses() {
    let image = Image::new(&tars());
    let (source, on, _) = switched(&image);
    let store = image.store();
    let fs = image.mount(&store, &[source]);
    let completion = Completion::new(store, AT_ONCE);
    completion.add(&fs, image.index);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let postponed = completion.counters().postponed.load(Ordering::Relaxed);
    assert!((4..15).contains(&postponed), "{postponed} times in an hour");
    on.store(true, Ordering::Relaxed);
    tokio::time::sleep(2 * LONGEST_PAUSE).await;
    eventually("complete", || checked(&completion)).await;
}

#[tokio::test]
async fn bytes_that_the_disk_loses_before_the_check_are_fetched_again() {
    let tars = tars();
    let image = Image::new(&tars);
    let store = image.store();
    let fs = image.mount(&store, &[image.source()]);
    fs.layers()[0].fetch(0..4, Class::Demand).await.unwrap();
    let cut = std::fs::read_dir(store.root().join(image.layers[0].diff_id.0.hex())).unwrap().next();
    let data = cut.unwrap().unwrap().path().join("data");
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[30_000] ^= 4;
    std::fs::write(&data, bytes).unwrap();
    let completion = Completion::new(store.clone(), AT_ONCE);
    completion.add(&fs, image.index);
    eventually("complete", || checked(&completion)).await;
    assert_eq!(store.counters().damaged_units.load(Ordering::Relaxed), 1);
    assert!(store.quarantined().is_empty(), "the disk is to blame, not the blob");
    assert!(is_whole(&image, &image.store(), &tars).await);
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_below_the_cap_is_not_begun() {
    let image = Image::new(&tars());
    let (source, on, asked) = switched(&image);
    on.store(true, Ordering::Relaxed);
    let store = Store::open(&image.directory.path().join("layers")).unwrap();
    let store = Arc::new(store.with_cap(Cap { high: Some(2_000_000), low: 1_000_000 }));
    let fs = image.mount(&store, &[source]);
    let completion = Completion::new(store, AT_ONCE);
    completion.add(&fs, image.index);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(sum(&asked), 0, "it would only be taken away again, with what others use");
    let postponed = completion.counters().postponed.load(Ordering::Relaxed);
    assert!((4..15).contains(&postponed), "{postponed} times in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fills_in_the_middle_is_waited_for_and_reads_go_on() {
    let Some(disk) = SmallDisk::new(c"size=12m") else { return };
    let tars = tars();
    let image = Image::new(&tars);
    let (inner, asked) = noting(&image);
    let hog = disk.path().join("hog");
    let filled = hog.clone();
    let source = FnSource::source("filling", move |blob, range| {
        // The second answer finds the disk full.
        if range.start > 0 && !filled.exists() {
            let mut hog = std::fs::File::create(&filled).unwrap();
            while std::io::Write::write_all(&mut hog, &[1; 4096]).is_ok() {}
        }
        inner.fetch(blob, range)
    });
    let store = Arc::new(Store::open(&disk.path().join("layers")).unwrap());
    let fs = image.mount(&store, &[source]);
    // So that there is a second one.
    fs.layers()[0].fetch(0..2, Class::Demand).await.unwrap();
    let completion = Completion::new(store.clone(), AT_ONCE);
    completion.add(&fs, image.index);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(hog.exists() && !checked(&completion));
    let postponed = completion.counters().postponed.load(Ordering::Relaxed);
    assert!((4..15).contains(&postponed), "{postponed} times in an hour");
    assert!(sum(&asked) <= image.blob_bytes(), "nothing is asked for that would not be kept");
    for (layer, tar) in fs.layers().iter().zip(&tars) {
        assert!(layer.read(0..tar.len() as u64).await.unwrap() == *tar, "reads are served from memory");
    }
    std::fs::remove_file(&hog).unwrap();
    // Were it asked for again from its start, it would fill the disk again.
    std::fs::create_dir(&hog).unwrap();
    tokio::time::sleep(2 * LONGEST_PAUSE).await;
    eventually("complete", || checked(&completion)).await;
}
