//! `--start` and `--stop`, with a `systemctl` that writes down what it is asked, and a daemon of this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command};

use super::containerd::{Containerd, Reads};
use super::{CONFIG, INSTALL, MINE, Machine};

/// Notes what containerd would be restarted with, and fails where a file says so.
const SYSTEMCTL: &str = r#"#!/bin/sh
jaunt=no
while read -r line; do
    case $line in *proxy_plugins.jaunt*) jaunt=yes ;; esac
done < /etc/containerd/config.toml
echo "$* jaunt=$jaunt" >> /asked
if [ -e "/fails-$1-$jaunt" ]; then exit 1; fi
if [ "$1" = show ] && [ -e /queued ]; then echo 12; fi
if [ "$1" = is-active ] && [ -e /old-alone ]; then
    read -r line < /usr/local/bin/jaunt-snapshotter
    [ "$line" = old ] || exit 3
fi
"#;

/// A machine with a shell; none, where nobody may change their root directory.
fn machine() -> Option<Machine> {
    if !rustix::process::geteuid().is_root() {
        println!("not tried: it needs root");
        return None;
    }
    let machine = Machine::new(Some(MINE));
    let listed = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/bin/sh"]) {
        let place = machine.at(file.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(file, place).unwrap();
    }
    fs::create_dir_all(machine.at("usr/bin")).unwrap();
    fs::write(machine.at("usr/bin/systemctl"), SYSTEMCTL).unwrap();
    fs::set_permissions(machine.at("usr/bin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    Some(machine)
}

impl Machine {
    /// What systemd was asked to do since it was last looked at.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.at("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.at("asked"));
        let asked = asked.lines().filter(|line| !line.starts_with("is-active") && !line.starts_with("show"));
        asked.map(|line| line.replace(".service", "")).collect()
    }
}

/// Killed at the end, its worker with it.
struct Daemon(Child);

impl Daemon {
    fn of(machine: &Machine) -> Self {
        let log = fs::File::create(machine.at("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        command.args(["serve", "--config", "/dev/null", "--root"]).arg(machine.at("var/lib/jaunt"));
        command.arg("--run-dir").arg(machine.at("run/jaunt"));
        Self(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(wait: &str) -> Vec<&str> {
    [&INSTALL[..], &["--start", "--wait", wait]].concat()
}

#[test]
fn containerd_is_told_of_a_daemon_that_serves_and_that_is_ended_last() {
    let Some(machine) = machine() else { return };
    let daemon = Daemon::of(&machine);
    let _containerd = Containerd::of(&machine, Reads::TheFile);
    machine.run(&start("60"));
    let started = [
        "daemon-reload jaunt=no",
        "enable jaunt-snapshotter jaunt=no",
        "restart --no-block jaunt-snapshotter jaunt=no",
        "restart containerd jaunt=yes",
    ];
    assert_eq!(machine.asked(), started);
    machine.run(&start("60"));
    let again = [
        "daemon-reload jaunt=yes",
        "enable jaunt-snapshotter jaunt=yes",
        "start --no-block jaunt-snapshotter jaunt=yes",
    ];
    assert_eq!(machine.asked(), again, "nothing is restarted where nothing has changed");
    machine.run(&["uninstall", "--stop"]);
    let stopped =
        ["restart containerd jaunt=no", "disable --now jaunt-snapshotter jaunt=no", "daemon-reload jaunt=no"];
    assert_eq!(machine.asked(), stopped);
    assert_eq!(machine.config(), MINE);
    drop(daemon);
}

#[test]
fn containerd_is_not_told_of_a_daemon_that_does_not_serve() {
    let Some(machine) = machine() else { return };
    let said = machine.refused(&start("0"));
    assert!(said.contains("does not serve") && said.contains("snapshotter.sock"), "{said}");
    assert_eq!(machine.asked().len(), 3);
    assert_eq!(machine.config(), MINE);
    machine.run(&["uninstall"]);
}

#[test]
fn a_daemon_whose_unit_is_not_active_does_not_serve() {
    let Some(machine) = machine() else { return };
    let _daemon = Daemon::of(&machine);
    fs::write(machine.at("fails-restart-no"), "").unwrap();
    fs::write(machine.at("fails-is-active-no"), "").unwrap();
    let said = machine.refused(&start("1"));
    assert!(
        said.contains("restart --no-block jaunt-snapshotter.service failed")
            && said.contains("is not active"),
        "{said}"
    );
    assert_eq!(machine.config(), MINE);
}

#[test]
fn a_daemon_that_runs_until_it_is_replaced_is_not_the_new_one() {
    let Some(machine) = machine() else { return };
    let _daemon = Daemon::of(&machine);
    fs::write(machine.at("queued"), "").unwrap();
    let said = machine.refused(&start("1"));
    assert!(said.contains("is still being started"), "{said}");
    assert_eq!(machine.config(), MINE);
}

#[test]
fn a_configuration_that_an_earlier_run_left_unread_goes_with_what_this_one_adds() {
    for before in [&[][..], &["--no-cri"]] {
        let Some(machine) = machine() else { return };
        let _daemon = Daemon::of(&machine);
        // As far as one comes that ends before it restarts containerd.
        machine.run(&[&INSTALL[..], before].concat());
        fs::write(machine.at("fails-restart-yes"), "").unwrap();
        let said = machine.refused(&[&start("60")[..], &["--docker"]].concat());
        assert!(said.contains("the old one is back, and it runs"), "{said}");
        assert_eq!(machine.config(), MINE);
        assert!(!machine.at("etc/docker/daemon.json").exists());
        assert_eq!(machine.asked().last().unwrap(), "restart containerd jaunt=no");
        machine.run(&["uninstall"]);
        assert_eq!(machine.config(), MINE);
    }
}

#[test]
fn a_containerd_that_does_not_come_back_without_the_snapshotter_keeps_it() {
    let Some(machine) = machine() else { return };
    let _daemon = Daemon::of(&machine);
    let containerd = Containerd::of(&machine, Reads::TheFile);
    machine.run(&start("60"));
    machine.asked();
    drop(containerd);
    let installed = machine.config();
    fs::write(machine.at("fails-restart-no"), "").unwrap();
    for theirs in ["", "\n[debug]\n  level = \"info\" # theirs\n"] {
        fs::write(machine.at(CONFIG), installed.clone() + theirs).unwrap();
        let said = machine.refused(&["uninstall", "--stop"]);
        assert!(said.contains("the old one is back, and it runs"), "{said}");
        assert_eq!(machine.config(), installed.clone() + theirs);
        let asked = ["restart containerd jaunt=no", "restart containerd jaunt=yes"];
        assert_eq!(machine.asked(), asked, "the daemon is left to run");
    }
    // A drain that containerd does not take is none.
    fs::write(machine.at(CONFIG), &installed).unwrap();
    fs::write(machine.at("fails-restart-yes"), "").unwrap();
    machine.refused(&["uninstall", "--drain", "--stop"]);
    assert_eq!(machine.config(), installed);
    assert!(!machine.run(&INSTALL).contains("drained"));
    for fails in ["fails-restart-no", "fails-restart-yes"] {
        fs::remove_file(machine.at(fails)).unwrap();
    }
    machine.run(&["uninstall", "--stop"]);
    assert_eq!(machine.config(), MINE);
}

#[test]
fn what_containerd_cannot_read_is_not_left_to_it() {
    let Some(machine) = machine() else { return };
    machine.run(&INSTALL);
    let edited = machine.config() + "\n[debug]\n  level = \"info\" # theirs\n";
    fs::write(machine.at(CONFIG), &edited).unwrap();
    let containerd = machine.at("usr/bin/containerd");
    fs::write(&containerd, "#!/bin/sh\necho cannot read it >&2\nexit 1\n").unwrap();
    fs::set_permissions(&containerd, fs::Permissions::from_mode(0o755)).unwrap();
    let before = machine.files();
    for words in [&["uninstall"][..], &["uninstall", "--stop"], &["uninstall", "--drain", "--stop"]] {
        assert!(machine.refused(words).contains("cannot read it"), "{words:?}");
        assert_eq!(machine.files(), before);
    }
    machine.run(&["uninstall", "--force"]);
    assert!(machine.config().contains("# theirs") && !machine.config().contains("jaunt"));
}

#[test]
fn a_containerd_that_does_not_come_back_gets_its_configuration_back() {
    let Some(machine) = machine() else { return };
    let _daemon = Daemon::of(&machine);
    let _containerd = Containerd::of(&machine, Reads::TheFile);
    fs::write(machine.at("fails-restart-yes"), "").unwrap();
    let said = machine.refused(&start("60"));
    assert!(said.contains("the old one is back, and it runs"), "{said}");
    assert_eq!(machine.config(), MINE);
    assert_eq!(machine.asked().last().unwrap(), "restart containerd jaunt=no");
    fs::remove_file(machine.at("fails-restart-yes")).unwrap();
    machine.run(&start("60"));
    assert_eq!(machine.asked().last().unwrap(), "restart containerd jaunt=yes");
}

#[test]
fn a_containerd_that_comes_back_without_the_snapshotter_gets_its_configuration_back() {
    for (reads, why) in [(Reads::Another, "another configuration file"), (Reads::InVain, "dial failed")] {
        let Some(machine) = machine() else { return };
        let _daemon = Daemon::of(&machine);
        // Until the daemon serves, so that the time is containerd's.
        machine.run(&[&INSTALL[..], &["--no-cri"]].concat());
        machine.run(&["uninstall"]);
        let _containerd = Containerd::of(&machine, reads);
        let said = machine.refused(&start("5"));
        assert!(said.contains(why) && said.contains("the old one is back, and it runs"), "{said}");
        assert_eq!(machine.config(), MINE);
        let asked = machine.asked();
        assert_eq!(asked[asked.len() - 2..], ["restart containerd jaunt=yes", "restart containerd jaunt=no"]);
        machine.run(&["uninstall"]);
        assert_eq!(machine.config(), MINE);
    }
}

#[test]
fn a_containerd_that_is_silent_gets_its_configuration_back() {
    let Some(machine) = machine() else { return };
    let _daemon = Daemon::of(&machine);
    let said = machine.refused(&start("5"));
    assert!(said.contains("not reachable at") && said.contains("containerd.sock"), "{said}");
    assert_eq!(machine.config(), MINE);
}

#[test]
fn a_newer_program_takes_the_place_of_the_one_that_runs_and_containerd_runs_on() {
    let Some(machine) = machine() else { return };
    let _daemon = Daemon::of(&machine);
    let _containerd = Containerd::of(&machine, Reads::TheFile);
    machine.run(&start("60"));
    machine.asked();
    let program = machine.at("usr/local/bin/jaunt-snapshotter");
    let new = fs::read(&program).unwrap();
    fs::write(&program, "old\n").unwrap();
    machine.run(&start("60"));
    let upgraded = [
        "daemon-reload jaunt=yes",
        "enable jaunt-snapshotter jaunt=yes",
        "restart --no-block jaunt-snapshotter jaunt=yes",
    ];
    assert_eq!(machine.asked(), upgraded);
    assert!(fs::read(&program).unwrap() == new);

    // One that does not serve goes again.
    fs::write(&program, "old\n").unwrap();
    fs::write(machine.at("old-alone"), "").unwrap();
    let said = machine.refused(&start("5"));
    assert!(said.contains("the old program and unit are back, and serve"), "{said}");
    assert_eq!(fs::read(&program).unwrap(), b"old\n");
    assert_eq!(machine.asked(), [upgraded, upgraded].concat());
    assert!(machine.config().contains("[proxy_plugins.jaunt]"), "containerd was not asked about it");
}

#[test]
fn an_upgrade_that_was_cut_short_is_taken_back_by_the_next_run() {
    let Some(machine) = machine() else { return };
    let empty = machine.files();
    let daemon = Daemon::of(&machine);
    let _containerd = Containerd::of(&machine, Reads::TheFile);
    machine.run(&start("60"));
    let program = machine.at("usr/local/bin/jaunt-snapshotter");
    let previous = machine.at("usr/local/bin/jaunt-snapshotter.previous");
    assert!(!previous.exists(), "it has served");
    fs::write(&program, "old\n").unwrap();
    // As far as one comes that ends before it has started anything; twice.
    machine.run(&INSTALL);
    machine.run(&INSTALL);
    assert_eq!(fs::read(&previous).unwrap(), b"old\n");
    fs::write(machine.at("old-alone"), "").unwrap();
    let said = machine.refused(&start("5"));
    assert!(said.contains("the old program and unit are back, and serve"), "{said}");
    assert_eq!(fs::read(&program).unwrap(), b"old\n");
    assert!(!previous.exists());
    // What is undone before it has served leaves nothing, either.
    machine.run(&INSTALL);
    assert!(previous.exists());
    drop(daemon);
    machine.run(&["uninstall", "--force"]);
    for path in ["asked", "old-alone", "log"] {
        let _ = fs::remove_file(machine.at(path));
    }
    for dir in ["var", "run"] {
        let _ = fs::remove_dir_all(machine.at(dir));
    }
    assert_eq!(machine.files(), empty);
}

#[test]
fn an_installation_by_hand_comes_back_where_the_new_daemon_does_not_serve() {
    let Some(machine) = machine() else { return };
    let _daemon = Daemon::of(&machine);
    let (program, unit) = ("usr/local/bin/jaunt-snapshotter", "etc/systemd/system/jaunt-snapshotter.service");
    for (path, text) in [(program, "old\n"), (unit, "[Service]\n# mine\n")] {
        fs::create_dir_all(machine.at(path).parent().unwrap()).unwrap();
        fs::write(machine.at(path), text).unwrap();
    }
    fs::write(machine.at("old-alone"), "").unwrap();
    let said = machine.refused(&start("5"));
    assert!(said.contains("the old program and unit are back, and serve"), "{said}");
    assert_eq!(fs::read_to_string(machine.at(program)).unwrap(), "old\n");
    assert_eq!(fs::read_to_string(machine.at(unit)).unwrap(), "[Service]\n# mine\n");
    for file in [program, unit] {
        let beside = |suffix: &str| machine.at(&format!("{file}.{suffix}")).exists();
        assert!(!beside("before-jaunt") && !beside("previous"), "{file}");
    }
    assert!(!machine.at("etc/jaunt/snapshotter.toml").exists());
    assert!(machine.refused(&["uninstall"]).contains("nothing is installed"));
}

#[test]
fn a_drain_restarts_containerd_and_leaves_docker_to_its_operator() {
    let Some(machine) = machine() else { return };
    machine.run(&[&INSTALL[..], &["--docker"]].concat());
    let said = machine.run(&["uninstall", "--drain", "--stop"]);
    assert!(said.contains("restarted containerd") && said.contains("systemctl restart docker"), "{said}");
    assert_eq!(machine.asked(), ["restart containerd jaunt=yes"], "it is known still, for what runs");
    let said = machine.run(&["uninstall", "--drain", "--stop"]);
    assert_eq!((said.as_str(), machine.asked()), ("", Vec::new()), "once is enough");
}

#[test]
fn a_drain_that_containerd_was_not_told_of_is_told_by_the_next() {
    let Some(machine) = machine() else { return };
    machine.run(&INSTALL);
    let said = machine.run(&["uninstall", "--drain"]);
    assert!(said.contains("systemctl restart containerd"), "{said}");
    assert_eq!(machine.asked(), [""; 0]);
    let said = machine.run(&["uninstall", "--drain", "--stop"]);
    assert_eq!(said, "restarted containerd\n");
    assert_eq!(machine.asked(), ["restart containerd jaunt=yes"]);
}

#[test]
fn nothing_is_stopped_when_something_is_in_the_way() {
    let Some(machine) = machine() else { return };
    machine.run(&INSTALL);
    fs::write(machine.at("etc/systemd/system/jaunt-snapshotter.service"), "[Service]\n").unwrap();
    let before = machine.files();
    assert!(machine.refused(&["uninstall", "--stop"]).contains("was changed"));
    assert_eq!(machine.asked(), [""; 0]);
    assert_eq!(machine.files(), before);
    assert!(Path::new(&machine.at(CONFIG)).exists());
}
