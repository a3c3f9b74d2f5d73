//! Indexes that lie about what stands behind them.

use jaunt_formats::launch::{Blob, Compression};
use jaunt_formats::{DiffId, Digest, EntryKind, EntryPath, Timestamp};

use super::*;
use crate::source::MemorySource;

/// Has an image completed as far as it goes.
async fn complete(image: &Image) -> (Arc<Store>, Arc<LayerFs>, Completion) {
    let store = image.store();
    let fs = image.mount(&store, &[image.source()]);
    let completion = Completion::new(store.clone(), AT_ONCE);
    completion.add(&fs, image.index);
    let counters = || completion.counters();
    eventually("done", || checked(&completion) || counters().quarantined.load(Ordering::Relaxed) > 0).await;
    (store, fs, completion)
}

/// K3: A layer that is not what its diffID says is in quarantine from then on, lastingly, and no byte of its converted
/// blob is read any more.
#[tokio::test]
async fn a_layer_that_is_not_its_diff_id_is_found_out_and_believed_no_more() {
    let image = Image::lying(&tars()[..1], |layer, _| layer.diff_id = DiffId(Digest::of(b"another")));
    let (store, fs, completion) = complete(&image).await;
    let layer = &fs.layers()[0];
    eventually("cleared", || layer.file().quarantined().is_some() && layer.file().present_bytes() == 0).await;
    let why = layer.file().quarantined().unwrap();
    assert!(why.contains("decodes to a tar with digest sha256:"), "{why}");
    assert!(why.contains(&image.layers[0].converted.digest.to_string()), "{why}");
    assert!(!layer.file().is_complete() && !store.is_checked(&image.index, 1));
    // The source still has the blob, and its spans still match the index.
    assert!(layer.read(0..100).await.is_err());
    drop((completion, fs, store));

    let store = image.store();
    assert_eq!(store.quarantined().len(), 1);
    let fs = image.mount(&store, &[image.source()]);
    assert!(fs.layers()[0].read(0..100).await.is_err());
}

#[tokio::test]
async fn the_original_takes_the_place_of_a_layer_in_quarantine_and_completes_it() {
    let tars = vec![tars().remove(0)];
    // Somebody has changed a byte of a file, and made spans and digests for it.
    let mut forged = tars.clone();
    forged[0][3000] ^= 1;
    let image = Image::lying(&forged, |layer, _| {
        let (digest, len) = (Digest::of(&tars[0]), tars[0].len() as u64);
        layer.diff_id = DiffId(digest);
        layer.original = Blob { digest, len, compression: Compression::None };
    });
    let original: Arc<dyn Source> = Arc::new(MemorySource::named(
        "original",
        [(image.layers[0].original.digest, tars[0].clone().into())],
    ));
    let store = image.store();
    let fs = image.mount(&store, &[image.source(), original]);
    let layer = &fs.layers()[0];
    assert!(layer.read(0..4096).await.unwrap() != tars[0][..4096], "nobody knows yet");
    let completion = Completion::new(store.clone(), AT_ONCE);
    completion.add(&fs, image.index);
    eventually("complete", || checked(&completion)).await;
    assert!(layer.file().is_complete() && layer.file().quarantined().is_some());
    drop((completion, fs));
    assert!(is_whole(&image, &image.store(), &tars).await, "what is read is the layer");
}

#[tokio::test]
async fn a_tree_that_is_not_that_of_the_tars_is_found_out_and_the_difference_named() {
    let a_link = EntryKind::Symlink { target: b"/etc/shadow"[..].into() };
    type Lie = Box<dyn Fn(&mut Vec<jaunt_formats::Entry>)>;
    let at = |entries: &[jaunt_formats::Entry], path: &str| {
        let path = EntryPath::parse(path.as_bytes()).unwrap();
        entries.iter().position(|entry| entry.path == path)
    };
    let change = move |path: &'static str, change: Box<dyn Fn(&mut jaunt_formats::Entry)>| -> Lie {
        Box::new(move |entries| {
            if let Some(at) = at(entries, path) {
                change(&mut entries[at]);
            }
        })
    };
    let lies: [(Lie, &str); 5] = [
        (change("dir/file-3", Box::new(|entry| entry.mode = 0o4755)), "/dir/file-3: mode 0644 and 4755"),
        (change("bin/su", Box::new(|entry| entry.mode = 0o755)), "/bin/su: mode 4755 and 0755"),
        (change("other", Box::new(|entry| entry.uid = 5)), "/other: owner 0:0 and 5:0"),
        (
            change("dir/file-9", Box::new(move |entry| entry.kind = a_link.clone())),
            "/dir/file-9: type Regular and Symlink",
        ),
        (
            change("large", Box::new(|entry| entry.mtime = Timestamp { seconds: 9, nanoseconds: 0 })),
            "/large: mtime",
        ),
    ];
    for (lie, found) in lies {
        let image = Image::lying(&tars(), |_, entries| lie(entries));
        let (store, fs, completion) = complete(&image).await;
        eventually("noted", || store.quarantined_index(&image.index).is_some()).await;
        let why = store.quarantined_index(&image.index).unwrap();
        assert!(why.contains(found), "{why}");
        assert!(!store.is_checked(&image.index, 2));
        assert!(fs.layers().iter().all(|layer| layer.file().is_complete()), "the layers are what they are");
        drop((completion, fs, store));
        assert_eq!(image.store().quarantined_index(&image.index), Some(why));
    }
}

#[tokio::test]
async fn content_that_an_index_has_elsewhere_and_names_too_many_are_found_out() {
    let image = Image::lying(&tars()[..1], |_, entries| {
        let from = entries.iter().position(|entry| entry.path.to_string().ends_with("file-5")).unwrap();
        let mut more = entries[from].clone();
        more.path = EntryPath::parse(b"bin/backdoor").unwrap();
        entries.push(more);
    });
    let (store, ..) = complete(&image).await;
    eventually("noted", || store.quarantined_index(&image.index).is_some()).await;
    let why = store.quarantined_index(&image.index).unwrap();
    assert!(why.contains("/bin/backdoor: only in the second"), "{why}");
}
