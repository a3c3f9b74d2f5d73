//! What a check of the store's files finds, and what mending leaves.

use super::*;
use crate::store::check::{LayerFault, kept, left_over, look};

fn whole() -> Fixture {
    let fixture = Fixture::new(&[(0, 50_000), (100, 30_001)], std::slice::from_ref(&(20_000..60_000)));
    let file = fixture.open();
    (0..2).for_each(|span| fixture.keep(&file, span));
    file.mark_complete().unwrap();
    fixture
}

fn faults(fixture: &Fixture, deep: bool) -> Vec<LayerFault> {
    look(fixture.directory.path(), &fixture.layer, &fixture.large, deep).unwrap()
}

#[test]
fn a_sound_layer_has_no_fault_and_is_not_changed_by_looking() {
    let fixture = whole();
    let before = fixture.on_disk();
    assert_eq!(faults(&fixture, true), []);
    assert!(left_over(fixture.directory.path()).unwrap().is_empty());
    let kept = kept(fixture.directory.path()).unwrap();
    assert_eq!((kept.len(), &kept[0].path), (1, &fixture.place()));
    assert_eq!(fixture.on_disk(), before);
    let absent = Fixture::new(&[(0, 5)], &[]);
    assert_eq!(faults(&absent, true), []);
    assert!(absent.on_disk().is_empty());
}

#[test]
fn damage_in_either_kind_of_file_is_found_and_mended() {
    for at in [3, 30_000] {
        let fixture = whole();
        assert!(fixture.flip(at));
        assert_eq!(faults(&fixture, false), [], "bytes are looked at when that is asked for");
        let bytes = fixture.units().iter().find(|unit| unit.contains(&at)).map(|unit| unit.end - unit.start);
        let found = LayerFault::Damaged { bytes: bytes.unwrap(), complete: true };
        assert_eq!(faults(&fixture, true), [found]);
        let file = fixture.open();
        assert_eq!(Some(file.mend().unwrap()), bytes);
        assert!(!file.is_complete() && !file.has(&(at..at + 1)));
        assert_eq!(faults(&fixture, true), []);
    }
}

#[test]
fn files_that_are_gone_are_found_and_mended() {
    for name in ["data", "large/20000"] {
        let fixture = whole();
        fs::remove_file(fixture.place().join(name)).unwrap();
        assert!(matches!(faults(&fixture, true)[..], [LayerFault::Damaged { complete: true, .. }]), "{name}");
        fixture.open().mend().unwrap();
        assert_eq!(faults(&fixture, true), [], "{name}");
    }
}

#[test]
fn a_mark_without_its_bytes_and_a_record_of_nothing_are_found_and_mended() {
    let fixture = whole();
    let units = fs::read(fixture.place().join("units")).unwrap();
    let mut less = units.clone();
    less[64..72].fill(0);
    fs::write(fixture.place().join("units"), less).unwrap();
    assert_eq!(faults(&fixture, false), [LayerFault::Incomplete { bytes: UNIT }]);
    fixture.open().mend().unwrap();
    assert_eq!(faults(&fixture, true), []);
    fs::write(fixture.place().join("units"), &units[..70]).unwrap();
    assert_eq!(faults(&fixture, false), [LayerFault::Record]);
    fixture.open().mend().unwrap();
    assert_eq!(faults(&fixture, true), []);
    assert_eq!(left_over(fixture.directory.path()).unwrap(), [fixture.place().join("units.damaged")]);
}

#[test]
fn what_interrupted_work_leaves_is_told_apart_from_layers() {
    let fixture = whole();
    let (root, place) = (fixture.directory.path(), fixture.place());
    let gone = place.with_file_name("gone-v3-0");
    fs::create_dir_all(root.join("verdicts")).unwrap();
    fs::create_dir(&gone).unwrap();
    let mut left = vec![root.join(".probe"), place.join("complete.new"), root.join("verdicts/index-0.new")];
    left.iter().for_each(|path| fs::write(path, "").unwrap());
    fs::write(root.join("verdicts/index-0"), "").unwrap();
    left.push(gone);
    left.sort();
    let mut found = left_over(root).unwrap();
    found.sort();
    assert_eq!(found, left);
}

#[test]
fn what_could_not_be_deleted_stands_in_nobodys_way_and_goes_later() {
    let fixture = whole();
    let root = fixture.directory.path();
    let layer = fixture.place().parent().unwrap().to_owned();
    let gone = root.join(format!("gone-{}", layer.file_name().unwrap().to_str().unwrap()));
    let leave = || {
        fs::create_dir_all(gone.join("v3-0")).unwrap();
        fs::write(gone.join("v3-0/units"), "x").unwrap();
    };
    leave();
    let store = Store::open(root).unwrap();
    assert!(!gone.exists() && layer.exists());
    leave();
    assert_eq!(store.retain(|_| false).unwrap(), 0);
    assert!(!gone.exists() && !layer.exists());
}
