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
    let data = packed(&image, &store);
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

/// The file that holds what is small of an image's lowest layer.
fn packed(image: &Image, store: &Store) -> std::path::PathBuf {
    let cut = std::fs::read_dir(store.root().join(image.layers[0].diff_id.0.hex())).unwrap().next();
    cut.unwrap().unwrap().path().join("data")
}

/// A chain that was completed, over a source that it was completed from.
async fn completed(image: &Image, store: &Arc<Store>) -> (Arc<LayerFs>, Completion, Asked) {
    let (source, asked) = noting(image);
    let fs = image.mount(store, &[source]);
    let completion = Completion::new(store.clone(), AT_ONCE);
    completion.add(&fs, image.index);
    eventually("complete", || checked(&completion)).await;
    (fs, completion, asked)
}

/// K2: A complete image needs no registry, also after a restart.
#[tokio::test(start_paused = true)]
async fn a_mounted_image_in_which_a_bit_flips_is_complete_again_without_a_new_mount() {
    let tars = tars();
    let image = Image::new(&tars);
    let store = image.store();
    let (fs, completion, asked) = completed(&image, &store).await;
    let all = sum(&asked);
    tokio::time::sleep(10 * REVIEW).await;
    assert_eq!((sum(&asked), completion.waiting()), (all, 0), "nothing is done twice");
    let data = packed(&image, &store);
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[30_000] ^= 4;
    std::fs::write(&data, bytes).unwrap();
    assert!(fs.layers()[0].read(29_000..31_000).await.unwrap() == tars[0][29_000..31_000]);
    assert!(!fs.layers()[0].file().is_complete());
    tokio::time::sleep(2 * REVIEW).await;
    eventually("complete again", || fs.layers()[0].file().is_complete()).await;
    let counters = completion.counters();
    eventually("settled", || completion.waiting() == 0).await;
    assert_eq!(counters.lost.load(Ordering::Relaxed), 1);
    assert_eq!(counters.postponed.load(Ordering::Relaxed), 0);
    assert!(sum(&asked) - all < 100_000 && store.is_checked(&image.index, 2));
    drop((completion, fs, store));
    assert!(is_whole(&image, &image.store(), &tars).await);
}

/// Of which nothing is used by anybody, so that all of it may go.
#[tokio::test(start_paused = true)]
async fn a_mounted_image_that_made_room_for_another_is_complete_again_once_there_is_room() {
    let tars = tars();
    let image = Image::new(&tars);
    let store = Store::open(&image.directory.path().join("layers")).unwrap();
    let store = Arc::new(store.with_cap(Cap { high: Some(6_000_000), low: 4_500_000 }));
    let (fs, completion, _) = completed(&image, &store).await;
    let another = Image::new(&[tar(&[("large", 0o644, noise(5, 4_000_000))])]);
    let other = another.mount(&store, &[another.source()]);
    let later = |seconds| std::time::SystemTime::now() + Duration::from_secs(seconds);
    store.maintain(later(1000)).unwrap();
    other.layers()[0].fetch(0..another.layers[0].spans.len(), Class::Demand).await.unwrap();
    store.maintain(later(1005)).unwrap();
    assert!(!fs.layers()[0].file().is_complete(), "it was used the longest ago");
    tokio::time::sleep(20 * REVIEW).await;
    assert_eq!(completion.counters().lost.load(Ordering::Relaxed), 1, "it is told once");
    assert!(Progress::of(&fs).percent() < 100, "there is no room, and nobody is pushed out for it");
    assert_eq!(completion.counters().without_room.load(Ordering::Relaxed), 1);
    drop(other);
    store.maintain(later(3000)).unwrap();
    store.retain(|diff_id| diff_id != another.layers[0].diff_id).unwrap();
    store.maintain(later(3005)).unwrap();
    tokio::time::sleep(2 * LONGEST_PAUSE).await;
    eventually("complete again", || Progress::of(&fs).complete_layers == 2).await;
    eventually("settled", || completion.counters().without_room.load(Ordering::Relaxed) == 0).await;
    drop((completion, fs, store));
    assert!(is_whole(&image, &image.store(), &tars).await);
}

#[tokio::test(start_paused = true)]
async fn what_made_room_is_not_fetched_again_only_to_make_room_again() {
    let image = Image::new(&tars());
    let others = [5, 6].map(|seed| Image::new(&[tar(&[("large", 0o644, noise(seed, 2_000_000))])]));
    let store = Store::open(&image.directory.path().join("layers")).unwrap();
    let store = Arc::new(store.with_cap(Cap { high: Some(6_000_000), low: 4_500_000 }));
    let (fs, completion, asked) = completed(&image, &store).await;
    let all = sum(&asked);
    let later = |seconds| std::time::SystemTime::now() + Duration::from_secs(seconds);
    store.maintain(later(1000)).unwrap();
    let mut mounts = Vec::new();
    for other in &others {
        let mount = other.mount(&store, &[other.source()]);
        mount.layers()[0].fetch(0..other.layers[0].spans.len(), Class::Demand).await.unwrap();
        mounts.push(mount);
    }
    store.maintain(later(1005)).unwrap();
    assert!(!fs.layers()[0].file().is_complete());
    drop(mounts.pop());
    store.retain(|diff_id| diff_id != others[1].layers[0].diff_id).unwrap();
    store.maintain(later(1010)).unwrap();
    let missing: u64 = fs.layers().iter().map(|layer| layer.total_bytes() - layer.present_bytes()).sum();
    assert!(store.has_room_for(missing) && !store.has_lasting_room_for(missing), "{missing}");
    tokio::time::sleep(20 * REVIEW).await;
    assert_eq!(sum(&asked), all, "the next read of the other would push it out again");
    let counters = completion.counters();
    let counted = [&counters.lost, &counters.without_room].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(counted, [1, 1]);
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
