//! Completion with images of real tars: what it does, what it leaves alone, and what it finds out.

mod image;
mod lies;
mod packs;
mod trouble;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::class::Class;
use crate::layers;
use crate::source::Source;
use crate::testing::{FnSource, NOT_AHEAD};
use image::{Image, is_whole, noise, tar};

const AT_ONCE: Settings = Settings { delay: Duration::ZERO };

/// Two layers with files large and small, some of them set-user-ID.
fn tars() -> Vec<Vec<u8>> {
    let small =
        |seed| (0..40u64).map(move |at| (format!("dir/file-{at}"), noise(seed + at, 700 + at as usize * 90)));
    let lower: Vec<_> = small(1).collect();
    let mut files: Vec<image::File<'_>> =
        lower.iter().map(|(name, content)| (name.as_str(), 0o644, content.clone())).collect();
    files.insert(3, ("bin/su", 0o4755, noise(77, 5000)));
    files.push(("large", 0o644, noise(78, 2_500_000)));
    let upper = vec![("dir/file-7", 0o600, noise(79, 300)), ("other", 0o644, noise(80, 400_000))];
    vec![tar(&files), tar(&upper)]
}

/// Waits for what comes about on other threads.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if is_so() {
            return;
        }
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.unwrap();
    }
    panic!("never {what}");
}

fn checked(completion: &Completion) -> bool {
    completion.counters().checked_chains.load(Ordering::Relaxed) > 0
}

/// Bytes that were asked of a source, and when.
type Asked = Arc<Mutex<Vec<(Instant, u64)>>>;

/// An image's source that notes what it is asked for.
fn noting(image: &Image) -> (Arc<dyn Source>, Asked) {
    let (source, asked) = (image.source(), Asked::default());
    let noted = asked.clone();
    let noting = FnSource::source("noting", move |blob, range| {
        noted.lock().unwrap().push((Instant::now(), range.end - range.start));
        source.fetch(blob, range)
    });
    (noting, asked)
}

fn sum(asked: &Asked) -> u64 {
    asked.lock().unwrap().iter().map(|(_, bytes)| bytes).sum()
}

#[tokio::test]
async fn a_completed_image_needs_no_registry_any_more_also_after_a_restart() {
    let tars = tars();
    let image = Image::new(&tars);
    let store = image.store();
    let fs = image.mount(&store, &[image.source()]);
    assert_eq!((Progress::of(&fs).percent(), Progress::of(&fs).layers), (0, 2));
    let completion = Completion::new(store.clone(), AT_ONCE);
    completion.add(&fs, image.index);
    eventually("complete", || checked(&completion)).await;
    assert_eq!((Progress::of(&fs).percent(), Progress::of(&fs).complete_layers), (100, 2));
    assert!(fs.layers().iter().all(|layer| layer.file().is_complete()));
    assert_eq!(completion.counters().filled_bytes.load(Ordering::Relaxed), image.blob_bytes());
    drop((completion, fs, store));

    let store = image.store();
    assert!(is_whole(&image, &store, &tars).await);
    assert!(store.is_checked(&image.index, 2) && store.quarantined().is_empty());
    let (source, asked) = noting(&image);
    let fs = image.mount(&store, &[source]);
    assert!(fs.layers().iter().all(|layer| layer.file().is_complete()), "known without another look");
    let completion = Completion::new(store, AT_ONCE);
    completion.add(&fs, image.index);
    eventually("idle", || completion.waiting() == 0).await;
    assert_eq!((sum(&asked), completion.counters().complete_layers.load(Ordering::Relaxed)), (0, 0));
}

/// K1: What is left of a mounted image is fetched while no reader waits, unless that is switched off, and then all of it
/// is checked: each layer's tar against its diffID, and the tree against the tars.
#[tokio::test]
async fn what_is_local_is_not_fetched_again() {
    let image = Image::new(&tars());
    let store = image.store();
    let (source, asked) = noting(&image);
    let fs = image.mount(&store, &[source]);
    fs.layers()[0].fetch(5..17, Class::Demand).await.unwrap();
    drop(fs);
    let fs = image.mount(&image.store(), &[noting(&image).0]);
    let local = sum(&asked);
    assert!(local > 0);
    let completion = Completion::new(store, AT_ONCE);
    let (source, asked) = noting(&image);
    fs.learn(&[source]);
    completion.add(&fs, image.index);
    eventually("complete", || checked(&completion)).await;
    let filled = completion.counters().filled_bytes.load(Ordering::Relaxed);
    assert_eq!(filled, image.blob_bytes() - local);
    drop(asked);
}

/// As converted blobs are read without their launch artifact.
#[tokio::test]
async fn a_layer_with_bytes_that_no_span_covers_is_completed_and_checked_from_its_whole_tar() {
    let tars = tars();
    let image = Image::gapped(&tars);
    assert!(image.layers.iter().all(|layer| !layer.covers_tar()));
    let store = image.store();
    let (source, asked) = noting(&image);
    let fs = image.mount(&store, &[source]);
    fs.layers()[0].fetch(0..3, Class::Demand).await.unwrap();
    let completion = Completion::new(store.clone(), AT_ONCE);
    completion.add(&fs, image.index);
    eventually("complete", || checked(&completion)).await;
    assert_eq!(Progress::of(&fs).complete_layers, 2);
    let once: u64 = image.blobs.iter().map(|blob| blob.len() as u64).sum();
    assert!(sum(&asked) < once + once / 10, "each is streamed once");
    drop((completion, fs, store));

    // What was kept beside is enough for another look, and is looked at itself.
    let store = image.store();
    let fs = image.mount(&store, &[]);
    let files: Vec<_> = fs.layers().iter().map(|layer| layer.file().clone()).collect();
    assert!(files.iter().all(|file| file.is_complete()));
    for (file, (layer, tar)) in files.iter().zip(image.layers.iter().zip(&tars)) {
        assert_eq!(check::tar(file, layer, &|| true), Ok(()));
        let rest = file.rest(layer).unwrap();
        for gap in crate::store::gaps(layer) {
            assert!(rest.read(&gap).unwrap() == tar[gap.start as usize..gap.end as usize]);
        }
    }
    assert_eq!(check::tree(&fs, &|| true), Ok(()));
    let path = store.root().join(image.layers[0].diff_id.0.hex());
    let path = std::fs::read_dir(path).unwrap().next().unwrap().unwrap().path().join("rest");
    let sound = std::fs::read(&path).unwrap();
    for (damage, len) in [(0, sound.len()), (40, sound.len()), (0, sound.len() - 1)] {
        let mut bytes = sound[..len].to_vec();
        bytes[damage] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(check::tree(&fs, &|| true), Err(check::Fault::Missing));
    }
}

#[tokio::test(start_paused = true)]
async fn it_begins_after_its_delay_and_keeps_to_its_limit() {
    let image = Image::new(&[tar(&[("large", 0o644, noise(1, 30_000_000))])]);
    let (source, asked) = noting(&image);
    let store = image.store();
    let slowly = layers::Settings { background_limit: NonZeroU64::new(1_000_000), ..NOT_AHEAD() };
    let fs = image.mount_with(slowly, &store, &[source]);
    let (begun, delay) = (Instant::now(), Duration::from_secs(20));
    let completion = Completion::new(store, Settings { delay });
    completion.add(&fs, image.index);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(sum(&asked), image.blob_bytes());
    let asked = asked.lock().unwrap();
    assert!(asked.len() > 5);
    let mut before = 0;
    for (at, bytes) in asked.iter() {
        assert!(*at >= begun + delay + Duration::from_secs(before / 1_000_000), "too soon: {before}");
        before += bytes;
    }
}

#[tokio::test]
async fn what_nobody_has_mounted_any_more_is_let_be() {
    let image = Image::new(&[tar(&[("large", 0o644, noise(1, 30_000_000))])]);
    let (source, asked) = noting(&image);
    let slow = FnSource::source("slow", move |blob, range| {
        let answer = source.fetch(blob, range);
        let late = async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            answer
        };
        futures_util::StreamExt::boxed(futures_util::StreamExt::flatten(futures_util::stream::once(late)))
    });
    let store = image.store();
    let fs = image.mount(&store, &[slow]);
    let completion = Completion::new(store, AT_ONCE);
    completion.add(&fs, image.index);
    eventually("begun", || sum(&asked) > 0).await;
    assert_eq!(completion.waiting(), 0, "it has its turn");
    drop(fs);
    // Another one has its turn, so the first has had it.
    let other = Image::new(&tars());
    let store = other.store();
    let fs = other.mount(&store, &[other.source()]);
    completion.add(&fs, other.index);
    eventually("complete", || checked(&completion)).await;
    assert!(sum(&asked) < image.blob_bytes() / 2, "{} bytes", sum(&asked));
    assert_eq!(completion.counters().postponed.load(Ordering::Relaxed), 0);
}
