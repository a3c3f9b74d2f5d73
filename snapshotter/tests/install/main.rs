//! `install` and `uninstall` on machines that are directories, with the containerd of this one.
#![allow(clippy::unwrap_used)]

mod containerd;
mod machines;
mod services;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CONFIG: &str = "etc/containerd/config.toml";
const MINE: &str = "# mine\nversion = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause:1\" # the mirror's\n";

/// A machine.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new(config: Option<&str>) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(machine.at("etc/containerd")).unwrap();
        if let Some(config) = config {
            fs::write(machine.at(CONFIG), config).unwrap();
            fs::set_permissions(machine.at(CONFIG), fs::Permissions::from_mode(0o600)).unwrap();
        }
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn try_run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        command.arg(words[0]).arg("--host-root").arg(self.0.path()).args(&words[1..]).output().unwrap()
    }

    fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    fn config(&self) -> String {
        fs::read_to_string(self.at(CONFIG)).unwrap()
    }

    /// Every file, with its bytes and permissions.
    fn files(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.0.path().to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => pending.push(path),
                    false => {
                        let mode = fs::metadata(&path).unwrap().permissions().mode();
                        found.insert(path.clone(), (mode, fs::read(path).unwrap()));
                    }
                }
            }
        }
        found
    }
}

const INSTALL: [&str; 3] = ["install", "--containerd-version", "1.7.24"];

#[test]
fn what_is_installed_is_all_there_and_goes_without_a_trace() {
    for config in [None, Some(MINE)] {
        let machine = Machine::new(config);
        let before = machine.files();
        machine.run(&INSTALL);
        let unit = fs::read_to_string(machine.at("etc/systemd/system/jaunt-snapshotter.service")).unwrap();
        assert!(unit.contains("ExecStart=/usr/local/bin/jaunt-snapshotter serve"), "{unit}");
        let program = fs::metadata(machine.at("usr/local/bin/jaunt-snapshotter")).unwrap();
        assert_eq!(program.permissions().mode() & 0o7777, 0o755);
        assert!(machine.at("etc/jaunt/snapshotter.toml").exists());
        let installed = machine.files();
        assert!(machine.run(&INSTALL).contains("all is installed already"));
        assert_eq!(machine.files(), installed, "once is enough");
        machine.run(&["uninstall"]);
        assert_eq!(machine.files(), before);
        assert!(machine.refused(&["uninstall"]).contains("nothing is installed"));
    }
}

#[test]
fn printing_writes_nothing() {
    let machine = Machine::new(Some(MINE));
    let before = machine.files();
    let printed = machine.run(&[&INSTALL[..], &["--print"]].concat());
    assert!(printed.contains("[proxy_plugins.jaunt]") && printed.contains("# mine"), "{printed}");
    assert!(printed.contains("# /etc/systemd/system/jaunt-snapshotter.service"), "{printed}");
    assert_eq!(machine.files(), before);
}

#[test]
fn what_others_change_meanwhile_stays() {
    let machine = Machine::new(Some(MINE));
    machine.run(&INSTALL);
    fs::write(machine.at(CONFIG), machine.config() + "\n[debug]\n  level = \"info\" # theirs\n").unwrap();
    machine.run(&["uninstall"]);
    let left = machine.config();
    assert!(left.starts_with(MINE) && left.contains("# theirs") && !left.contains("jaunt"), "{left}");
}

#[test]
fn a_changed_unit_is_in_the_way_before_anything_is_removed() {
    let machine = Machine::new(Some(MINE));
    machine.run(&INSTALL);
    let unit = machine.at("etc/systemd/system/jaunt-snapshotter.service");
    fs::write(&unit, "[Service]\n").unwrap();
    let before = machine.files();
    let said = machine.refused(&["uninstall"]);
    assert!(said.contains("jaunt-snapshotter.service was changed"), "{said}");
    assert_eq!(machine.files(), before);
    machine.run(&["uninstall", "--force"]);
    assert!(!unit.exists() && machine.config() == MINE);
}

#[test]
fn a_drained_node_pulls_as_before_and_can_be_uninstalled_later() {
    let machine = Machine::new(Some(MINE));
    machine.run(&INSTALL);
    assert!(machine.config().contains("snapshotter = \"jaunt\""));
    machine.run(&["uninstall", "--drain"]);
    let drained = machine.config();
    assert!(
        !drained.contains("snapshotter = \"jaunt\"") && drained.contains("[proxy_plugins.jaunt]"),
        "{drained}"
    );
    machine.run(&["uninstall"]);
    assert_eq!(machine.config(), MINE);
}

#[test]
fn a_drained_node_stays_drained_until_that_is_taken_back() {
    let machine = Machine::new(Some(MINE));
    machine.run(&INSTALL);
    machine.run(&["uninstall", "--drain"]);
    let drained = machine.config();
    assert!(machine.run(&INSTALL).contains("this node was drained"));
    assert_eq!(machine.config(), drained);
    machine.run(&[&INSTALL[..], &["--undrain"]].concat());
    assert!(machine.config().contains("snapshotter = \"jaunt\""));
    assert!(!machine.run(&INSTALL).contains("drained"));
    machine.run(&["uninstall"]);
    assert_eq!(machine.config(), MINE);
}

#[test]
fn dockers_store_is_switched_only_when_that_is_asked_for() {
    let machine = Machine::new(None);
    machine.run(&INSTALL);
    assert!(!machine.at("etc/docker/daemon.json").exists());
    fs::create_dir_all(machine.at("etc/docker")).unwrap();
    let theirs = "{\"log-driver\": \"local\"}";
    fs::write(machine.at("etc/docker/daemon.json"), theirs).unwrap();
    machine.run(&[&INSTALL[..], &["--docker"]].concat());
    let settings: serde_json::Value =
        serde_json::from_slice(&fs::read(machine.at("etc/docker/daemon.json")).unwrap()).unwrap();
    assert_eq!(settings["features"]["containerd-snapshotter"], true);
    assert_eq!(
        (settings["storage-driver"].as_str(), settings["log-driver"].as_str()),
        (Some("jaunt"), Some("local"))
    );
    machine.run(&["uninstall"]);
    assert_eq!(fs::read_to_string(machine.at("etc/docker/daemon.json")).unwrap(), theirs);
}

#[test]
fn a_machine_without_containerd_and_a_file_that_cannot_be_read_are_refused() {
    let machine = Machine::new(Some("version = "));
    assert!(machine.refused(&["install"]).contains("no containerd in"));
    let said = machine.refused(&INSTALL);
    assert!(said.contains("config.toml") && said.contains("cannot be read"), "{said}");
    assert_eq!(machine.files().len(), 1);
}

/// The containerd of this machine reads what was written, and has the last word.
#[test]
fn containerd_itself_reads_what_is_written() {
    let containerd = Path::new("/usr/bin/containerd");
    assert!(containerd.exists(), "tests need containerd");
    let machine = Machine::new(Some(MINE));
    // On this machine, with the configuration alone elsewhere.
    let config = machine.at(CONFIG);
    let install = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        command.args(["install", "--no-unit", "--print", "--containerd-config"]).arg(&config).args(words);
        command.output().unwrap()
    };
    let good = install(&[]);
    let said = String::from_utf8_lossy(&good.stderr);
    assert!(good.status.success(), "{said}");
    let printed = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(printed.contains("[proxy_plugins.jaunt]"), "{printed}");

    fs::create_dir(machine.at("etc/containerd/conf.d")).unwrap();
    let last_word =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"native\"\n";
    fs::write(machine.at("etc/containerd/conf.d/last.toml"), last_word).unwrap();
    fs::write(&config, format!("imports = [{:?}]\n{MINE}", machine.at("etc/containerd/conf.d/*.toml")))
        .unwrap();
    let before = machine.files();
    let overruled = install(&[]);
    let said = String::from_utf8_lossy(&overruled.stderr);
    assert!(!overruled.status.success() && said.contains("another file overrules"), "{said}");
    assert_eq!(machine.files(), before, "not even what was tried is left");
}

#[test]
fn the_installers_manifest_and_image_are_about_the_commands_there_are() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/kubernetes");
    let manifest = fs::read_to_string(dist.join("daemonset.yaml")).unwrap();
    let recipe = fs::read_to_string(dist.join("Containerfile")).unwrap();
    // Its own command, word for word, but for the machine and for systemd, which a directory has not.
    let line = manifest.lines().find(|line| line.contains("\"install\"")).unwrap();
    let words: Vec<String> = serde_json::from_str(line.trim().strip_prefix("command: ").unwrap()).unwrap();
    assert!(recipe.contains(&format!("COPY target/release/jaunt-snapshotter {}", words[0])), "{recipe}");
    assert_eq!(words[1..], ["install", "--host-root", "/host", "--start"]);
    let machine = Machine::new(Some(MINE));
    machine.run(&INSTALL);
    let parsed = Command::new("python3")
        .args(["-c", "import sys, yaml; print(len([d for d in yaml.safe_load_all(sys.stdin) if d['kind']]))"])
        .stdin(fs::File::open(dist.join("daemonset.yaml")).unwrap())
        .output();
    match parsed {
        Ok(parsed) if !String::from_utf8_lossy(&parsed.stderr).contains("No module") => {
            assert_eq!(String::from_utf8_lossy(&parsed.stdout).trim(), "2");
        }
        _ => println!("not parsed: no python3 with yaml"),
    }
}
