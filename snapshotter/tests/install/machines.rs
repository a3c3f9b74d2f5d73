//! Machines on which something is in the way, half done, or where nobody looks for it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use jaunt_snapshotter::metastore::{Backing, Creation, Kind, MetaStore};
use rustix::mount::{MountFlags, UnmountFlags};

use super::{CONFIG, INSTALL, MINE, Machine};

const OWN: &str = "etc/jaunt/snapshotter.toml";

#[test]
fn an_edited_configuration_is_kept_and_in_nobodys_way() {
    for words in [&["uninstall"][..], &["uninstall", "--force"]] {
        let machine = Machine::new(Some(MINE));
        machine.run(&INSTALL);
        fs::write(machine.at(OWN), "# ours\n").unwrap();
        let said = machine.run(words);
        assert!(said.contains("/etc/jaunt/snapshotter.toml.edited"), "{said}");
        assert_eq!(fs::read_to_string(machine.at("etc/jaunt/snapshotter.toml.edited")).unwrap(), "# ours\n");
        assert!(!machine.at(OWN).exists() && machine.config() == MINE);
    }
}

#[test]
fn a_changed_unit_that_is_removed_by_force_is_kept_as_well() {
    let machine = Machine::new(Some(MINE));
    machine.run(&INSTALL);
    fs::write(machine.at("etc/systemd/system/jaunt-snapshotter.service"), "[Service]\n").unwrap();
    machine.run(&["uninstall", "--force"]);
    let kept = fs::read_to_string(machine.at("etc/systemd/system/jaunt-snapshotter.service.edited"));
    assert_eq!(kept.unwrap(), "[Service]\n");
}

#[test]
fn an_edited_unit_is_replaced_and_kept_when_it_is_installed_again() {
    let machine = Machine::new(Some(MINE));
    let unit = "etc/systemd/system/jaunt-snapshotter.service";
    machine.run(&INSTALL);
    let shipped = fs::read_to_string(machine.at(unit)).unwrap();
    fs::write(machine.at(unit), "[Service]\n").unwrap();
    let said = machine.run(&INSTALL);
    assert!(
        said.contains("as it was edited: /etc/systemd/system/jaunt-snapshotter.service.edited"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(machine.at(unit)).unwrap(), shipped);
    assert_eq!(fs::read_to_string(machine.at(&format!("{unit}.edited"))).unwrap(), "[Service]\n");
    machine.run(&["uninstall"]);
    assert!(!machine.at(unit).exists() && machine.at(&format!("{unit}.edited")).exists());
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_not_taken_for_one_without_snapshots() {
    let machine = Machine::new(Some(MINE));
    machine.run(&INSTALL);
    let installed = machine.files();
    let root = machine.at("var/lib/jaunt");
    fs::create_dir_all(&root).unwrap();
    // It runs, and hangs.
    let lock = File::create(root.join("lock")).unwrap();
    lock.lock().unwrap();
    let said = machine.refused(&["uninstall"]);
    assert!(said.contains("cannot tell whether snapshots are in use") && said.contains("it runs"), "{said}");
    drop(lock);
    fs::write(root.join("meta.redb"), [0x5a; 100_000]).unwrap();
    assert!(machine.refused(&["uninstall"]).contains("cannot tell whether snapshots are in use"));
    fs::remove_file(root.join("meta.redb")).unwrap();
    let store = MetaStore::open(&root.join("meta.redb")).unwrap();
    let id = store.reserve().id();
    let (name, backing) = ("container".to_owned(), Backing::Eager);
    let labels = [].into();
    store.create(Creation { name, id, kind: Kind::Active, parent: None, labels, backing }).await.unwrap();
    drop(store);
    // The store's thread closes the database a moment later.
    let mut said = machine.refused(&["uninstall"]);
    while said.contains("cannot tell") {
        said = machine.refused(&["uninstall"]);
    }
    assert!(said.contains("1 snapshots are still in use"), "{said}");
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(machine.files(), installed, "nothing was removed");
    machine.run(&["uninstall"]);
    assert_eq!(machine.config(), MINE);
}

#[test]
fn a_disk_that_is_full_leaves_containerd_as_it_was() {
    let machine = Machine::new(Some(MINE));
    let before = machine.files();
    let small = machine.at("usr/local/bin");
    fs::create_dir_all(&small).unwrap();
    if let Err(error) = rustix::mount::mount("jaunt-test", &small, "tmpfs", MountFlags::empty(), c"size=1m") {
        println!("not tried: mounting: {error}");
        return;
    }
    let output = machine.try_run(&INSTALL);
    rustix::mount::unmount(&small, UnmountFlags::DETACH).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("No space left"), "{said}");
    assert_eq!(machine.config(), MINE);
    // What was begun is on record: it can be undone, and ended.
    machine.run(&["uninstall"]);
    assert_eq!(machine.files(), before);
}

#[test]
fn a_file_that_was_on_record_and_not_yet_replaced_is_as_it_was() {
    let machine = Machine::new(Some(MINE));
    let before = machine.files();
    machine.run(&INSTALL);
    fs::write(machine.at(CONFIG), MINE).unwrap();
    machine.run(&["uninstall"]);
    assert_eq!(machine.files(), before);
}

#[test]
fn what_others_change_stays_when_it_is_installed_again_in_between() {
    let machine = Machine::new(Some(MINE));
    machine.run(&INSTALL);
    let config = machine.config().replace("snapshotter = \"jaunt\"", "snapshotter = \"native\"");
    fs::write(machine.at(CONFIG), config + "\n[debug]\n  level = \"info\" # theirs\n").unwrap();
    machine.run(&INSTALL);
    assert!(machine.config().contains("snapshotter = \"jaunt\""));
    machine.run(&["uninstall"]);
    let left = machine.config();
    assert!(left.starts_with(MINE) && left.contains("# theirs") && !left.contains("jaunt"), "{left}");
}

#[test]
fn links_lead_where_the_machine_has_them_lead() {
    for target in
        ["/etc/static/containerd.toml", "../static/containerd.toml", "/up/../etc/static/containerd.toml"]
    {
        let machine = Machine::new(None);
        fs::create_dir_all(machine.at("etc/static")).unwrap();
        fs::write(machine.at("etc/static/containerd.toml"), MINE).unwrap();
        symlink(target, machine.at(CONFIG)).unwrap();
        machine.run(&INSTALL);
        assert_eq!(fs::read_link(machine.at(CONFIG)).unwrap().to_str(), Some(target), "it is a link still");
        let changed = fs::read_to_string(machine.at("etc/static/containerd.toml")).unwrap();
        assert!(changed.starts_with("# mine") && changed.contains("[proxy_plugins.jaunt]"), "{changed}");
        machine.run(&["uninstall"]);
        assert_eq!(fs::read_to_string(machine.at("etc/static/containerd.toml")).unwrap(), MINE);
        assert_eq!(fs::read_dir(machine.at("etc/static")).unwrap().count(), 1, "nothing is left beside it");
    }
}

#[test]
fn a_link_in_a_circle_is_an_error_that_names_it() {
    let machine = Machine::new(None);
    symlink("/etc/containerd/config.toml", machine.at(CONFIG)).unwrap();
    let said = machine.refused(&INSTALL);
    assert!(said.contains("config.toml") && said.contains("symbolic links"), "{said}");
}
