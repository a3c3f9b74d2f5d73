//! The Debian package: what is in it, and what dpkg makes of it below a root directory of its own.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::package;
use jaunt_tests::process::run;
use jaunt_tests::{Binaries, Scratch, Systemd, needs_programs, needs_root};

const CONFIG: &str = "etc/jaunt/snapshotter.toml";
const RECORD: &str = "etc/jaunt/installed.json";

/// Has `make deb` build it of the programs under test, which its cargo only says that it would have built.
fn build(scratch: &Scratch) -> PathBuf {
    let snapshotter = Binaries::find().unwrap().snapshotter(scratch, &[]);
    let programs = Path::new(snapshotter.get_program()).parent().unwrap();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut make = scratch.command("make");
    make.args(["--silent", "--directory"]).arg(top).args(["deb", "CARGO=echo"]);
    make.arg(format!("PROGRAMS={}", programs.display()));
    make.arg(format!("PACKAGES={}", scratch.path().join("out").display()));
    // What it takes to compress well is not what is looked at.
    make.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    let said = run(&mut make).unwrap();
    let (cargo, package) = said.trim().split_once('\n').unwrap();
    assert_eq!(cargo, "build --locked --release -p jaunt-snapshotter -p jaunt-proxy");
    PathBuf::from(package)
}

/// An empty machine, as far as dpkg is concerned: nothing is run in it, and what the package asks for is not there.
fn machine(scratch: &Scratch) -> PathBuf {
    let root = scratch.dir("machine").unwrap();
    for dir in ["info", "updates", "triggers"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(dir)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    root
}

fn dpkg(scratch: &Scratch, root: &Path) -> Command {
    let mut dpkg = scratch.command("dpkg");
    dpkg.arg("--root").arg(root).arg(format!("--log={}", scratch.path().join("dpkg.log").display()));
    dpkg.args(["--force-script-chrootless", "--force-depends", "--force-confdef"]);
    dpkg
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_package_is_installed_keeps_what_was_edited_and_goes_when_containerd_is_done_with_it() {
    needs_root!();
    needs_programs!("dpkg-deb", "make");
    let scratch = Scratch::new().unwrap();
    let (package, root) = (build(&scratch), machine(&scratch));
    let listed = run(scratch.command("dpkg-deb").arg("--contents").arg(&package)).unwrap();
    assert!(listed.lines().all(|line| line.contains(" root/root ")), "{listed}");
    run(dpkg(&scratch, &root).arg("--install").arg(&package)).unwrap();

    for program in ["jaunt-snapshotter", "jaunt-proxy"] {
        let program = root.join("usr/bin").join(program);
        assert_eq!(mode(&program), 0o755);
        let said = run(scratch.command(&program).arg("--version")).unwrap();
        let field = run(scratch.command("dpkg-deb").arg("--field").arg(&package).arg("Version")).unwrap();
        assert!(said.trim().ends_with(field.trim()), "{said} is not {field}");
    }
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/jaunt-snapshotter.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/jaunt-snapshotter serve\n"), "{unit}");
    assert!(!unit.contains("/usr/local"), "{unit}");
    for file in [CONFIG, "usr/share/doc/jaunt/OPERATIONS.md", "usr/share/doc/jaunt/copyright"] {
        assert_eq!(mode(&root.join(file)), 0o644, "{file}");
    }

    // An upgrade leaves the operator's configuration alone.
    fs::write(root.join(CONFIG), "resolve_timeout_seconds = 3\n").unwrap();
    run(dpkg(&scratch, &root).arg("--install").arg(&package)).unwrap();
    assert_eq!(fs::read_to_string(root.join(CONFIG)).unwrap(), "resolve_timeout_seconds = 3\n");

    fs::write(root.join(RECORD), "{}").unwrap();
    let refused = run(dpkg(&scratch, &root).args(["--remove", "jaunt"])).unwrap_err().to_string();
    assert!(refused.contains("uninstall --stop"), "{refused}");
    assert!(root.join("usr/bin/jaunt-snapshotter").exists());
    fs::remove_file(root.join(RECORD)).unwrap();
    run(dpkg(&scratch, &root).args(["--remove", "jaunt"])).unwrap();
    assert!(!root.join("usr/bin/jaunt-snapshotter").exists() && root.join(CONFIG).exists());
    run(dpkg(&scratch, &root).args(["--purge", "jaunt"])).unwrap();
    assert!(!root.join("etc/jaunt").exists());
}

const UNIT: &str = "jaunt-snapshotter.service";
/// As much of the unit as its manager needs to start it, with nothing behind it.
const IDLE: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";

/// A machine whose package manager is the test.
struct Packaged<'s> {
    systemd: Systemd<'s>,
}

impl Packaged<'_> {
    fn unpack(&self) {
        self.systemd.add(UNIT, IDLE, "").unwrap();
    }

    fn install(&self, before: &str) {
        package::install(&self.systemd, before, || self.unpack());
    }

    fn upgrade(&self) {
        package::upgrade(&self.systemd, || self.unpack());
    }

    fn remove(&self) {
        package::remove(&self.systemd, || {
            let mut unit = self.systemd.command("rm").unwrap();
            run(unit.arg(Path::new("/run/systemd/system").join(UNIT))).unwrap();
        });
    }

    fn purge(&self) {
        package::script(&self.systemd, "postrm", &["purge"]).unwrap();
    }

    /// Whether it runs, and whether it starts with the machine.
    fn state(&self) -> [bool; 2] {
        ["is-active", "is-enabled"].map(|what| self.systemd.control(&[what, "--quiet", UNIT]).is_ok())
    }

    fn main_pid(&self) -> String {
        self.systemd.property(UNIT, "MainPID").unwrap()
    }
}

#[test]
fn the_packages_daemon_runs_unless_its_operator_wants_otherwise() {
    needs_root!();
    if !Systemd::is_installed() {
        eprintln!("skipped: {}: needs systemd", module_path!());
        return;
    }
    let scratch = Scratch::new().unwrap();
    let shared = scratch.dir("shared").unwrap();
    let machine = Packaged { systemd: Systemd::start(&scratch, &shared).unwrap() };
    let control = |words: &[&str]| machine.systemd.control(words).unwrap();

    machine.install("");
    assert_eq!(machine.state(), [true, true], "new");
    let before = machine.main_pid();
    machine.upgrade();
    assert_eq!(machine.state(), [true, true], "upgraded");
    assert_ne!(machine.main_pid(), before, "by the newer one");

    machine.remove();
    assert_eq!(machine.state(), [false, false], "removed");
    machine.install("1");
    assert_eq!(machine.state(), [true, true], "back again");

    control(&["stop", UNIT]);
    machine.upgrade();
    assert_eq!(machine.state(), [false, true], "stopped by hand");
    control(&["disable", UNIT]);
    machine.upgrade();
    assert_eq!(machine.state(), [false, false], "disabled");
    machine.remove();
    machine.install("1");
    assert_eq!(machine.state(), [false, false], "disabled, and back again");
    control(&["start", UNIT]);
    machine.upgrade();
    assert_eq!(machine.state(), [true, false], "started by hand");

    machine.remove();
    machine.purge();
    machine.install("");
    assert_eq!(machine.state(), [true, true], "new again");
    machine.remove();
    machine.purge();
    let links = "test ! -L /etc/systemd/system/multi-user.target.wants/jaunt-snapshotter.service";
    run(machine.systemd.command("sh").unwrap().args(["-c", links])).unwrap();
}
