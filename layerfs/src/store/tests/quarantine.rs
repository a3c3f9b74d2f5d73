//! What is in quarantine stays there.

use super::*;

const LEN: u64 = 50_000;

fn fixture() -> Fixture {
    Fixture::new(&[(0, LEN), (0, LEN)], std::slice::from_ref(&(1000..30_000)))
}

#[test]
fn nothing_of_a_blob_in_quarantine_is_given_or_kept_also_after_a_restart() {
    let fixture = fixture();
    let file = fixture.open();
    (0..2).for_each(|span| fixture.keep(&file, span));
    file.mark_complete().unwrap();
    file.quarantine("its tar is another").unwrap();
    for file in [file, fixture.open()] {
        assert_eq!(file.quarantined().as_deref(), Some("its tar is another"));
        assert!(!file.is_complete() && file.hold_complete().is_none());
        assert_eq!((file.present_bytes(), file.read(&(0..1))), (0, None));
        let refused = fixture.try_keep(&file, 0).unwrap_err();
        assert!(is_refused(&refused) && refused.to_string().contains("quarantine"));
    }
    assert!(!fixture.place().join("large/1000").exists());
    let file = fixture.open();
    fixture.keep_original(&file, 0);
    assert_eq!(fixture.open().read(&(0..LEN)).unwrap(), fixture.tar[..LEN as usize]);
}

#[test]
fn who_knows_of_a_quarantine_is_given_nothing_of_the_blob_however_near_it_is() {
    for _ in 0..200 {
        let fixture = fixture();
        let file = fixture.open();
        (0..2).for_each(|span| fixture.keep(&file, span));
        let (reader, told) = (file.clone(), fixture.slice(&(0..100)).to_vec());
        let reading = std::thread::spawn(move || {
            loop {
                let is_known = reader.quarantined().is_some();
                match reader.read(&(0..100)) {
                    Some(bytes) => assert!(bytes == told && !is_known, "given after the verdict"),
                    None => return,
                }
            }
        });
        file.quarantine("a lie").unwrap();
        reading.join().unwrap();
    }
}

#[test]
fn a_quarantine_that_a_crash_cut_short_is_ended_when_the_layer_is_opened() {
    let fixture = fixture();
    fixture.keep(&fixture.open(), 0);
    let verdicts = fixture.directory.path().join("verdicts");
    fs::create_dir(&verdicts).unwrap();
    let name =
        format!("layer-{}-{}", fixture.layer.diff_id.0.hex(), CutName::of(&fixture.layer, &fixture.large));
    fs::write(verdicts.join(name), "a lie").unwrap();
    let file = fixture.open();
    assert_eq!((file.quarantined().as_deref(), file.present_bytes()), (Some("a lie"), 0));
}

#[test]
fn another_cut_of_the_same_layer_is_not_concerned() {
    let fixture = fixture();
    fixture.open().quarantine("a lie").unwrap();
    let store = Store::open(fixture.directory.path()).unwrap();
    assert!(store.layer(&fixture.layer, &LargeFiles::default()).quarantined().is_none());
    assert_eq!(store.quarantined().len(), 1);
    let kept = usage::measure(store.root()).unwrap();
    assert_eq!(kept.len(), 2, "verdicts are no layers");
}

#[test]
fn what_was_found_of_indexes_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let [good, bad] = [b"good", b"evil"].map(|bytes| Digest::of(bytes));
    for _ in 0..2 {
        let store = Store::open(directory.path()).unwrap();
        store.note_checked(&good, 2).unwrap();
        store.quarantine_index(&bad, "/bin/su: mode 0755 and 4755").unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!([1, 2].map(|layers| store.is_checked(&good, layers)), [false, true]);
        assert_eq!(store.quarantined_index(&good), None);
        assert_eq!(store.quarantined_index(&bad).as_deref(), Some("/bin/su: mode 0755 and 4755"));
        store.forget_checked(|used| *used == good).unwrap();
        assert!(store.is_checked(&good, 2));
    }
    let store = Store::open(directory.path()).unwrap();
    store.forget_checked(|_| false).unwrap();
    assert!(!store.is_checked(&good, 2) && !Store::open(directory.path()).unwrap().is_checked(&good, 2));
    assert!(store.quarantined_index(&bad).is_some(), "what is bad stays so");
}
