//! A node whose containerd and daemon are services of systemd's, given to Jaunt and taken back with the services restarted by
//! `install --start` and `uninstall --stop` themselves.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use common::{Bed, noise, runnable};
use jaunt_formats::Digest;
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Containerd, Jaunt, Snapshotter, Systemd, host, needs_root};

const UNIT: &str = "jaunt-snapshotter.service";
const LIMIT: Duration = Duration::from_secs(60);
const UNREAD: usize = 3 << 20;

/// The machine's root directory, as a pod has it.
const HOST: &str = "/mnt/host";
/// Runs a command where only [`HOST`] has the machine's settings and services.
const IN_POD: &str = "mount -t tmpfs none /mnt; mkdir /mnt/host; mount --rbind / /mnt/host; mount -t tmpfs none /etc; \
                      mount -t tmpfs none /run; exec \"$@\"";

struct Machine<'b> {
    from_pod: bool,
    bed: &'b Bed,
    systemd: Systemd<'b>,
    containerd: Containerd<'b>,
    /// What is installed, and what of it is shared with whoever looks from outside.
    dir: PathBuf,
}

impl<'b> Machine<'b> {
    /// containerd runs as it does without Jaunt, whose program and configuration are there.
    fn new(bed: &'b Bed, from_pod: bool) -> Self {
        let dir = bed.scratch.dir("jaunt").unwrap();
        let registries = [bed.registry.host()];
        let mut containerd =
            Containerd::start(&bed.scratch, "containerd", &Snapshotter::Overlayfs, &registries).unwrap();
        containerd.kill().unwrap();
        let systemd = Systemd::start(&bed.scratch, &dir).unwrap();
        let machine = Self { from_pod, bed, systemd, containerd, dir };
        machine.settings(&registries);
        let unit = format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart={} --config {}\nDelegate=yes\nKillMode=process\n",
            host::find("containerd").unwrap().display(),
            machine.containerd.config().display()
        );
        machine.systemd.add("containerd.service", &unit, "").unwrap();
        machine.systemd.control(&["start", "containerd.service"]).unwrap();
        machine.await_containerd();
        machine
    }

    /// The daemon's configuration, and what is different here in the unit that `install` writes: paths.
    fn settings(&self, registries: &[String]) {
        let text = "socket = \"DIR/jaunt.sock\"\nroot = \"DIR/root\"\n[completion]\nenabled = false\n";
        let config = self.dir.join("snapshotter.toml");
        fs::write(&config, text.replace("DIR", &self.dir.display().to_string())).unwrap();
        run(self.systemd.command("mkdir").unwrap().args(["-p", "/etc/jaunt"])).unwrap();
        run(self.systemd.command("cp").unwrap().arg(&config).arg("/etc/jaunt/snapshotter.toml")).unwrap();
        let mut serve = Jaunt::command(&self.bed.binaries, &self.bed.scratch, &self.dir, registries);
        serve.arg("--config").arg(&config);
        let words: Vec<_> = serve.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let changes = format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nExecStartPre=\nExecStart=\nExecStart={} {}\n\
             StandardOutput=append:{log}\nStandardError=append:{log}\n",
            self.program().display(),
            words.join(" "),
            log = self.bed.scratch.logs().join("service.log").display(),
        );
        let drop_in = self.dir.join("test.conf");
        fs::write(&drop_in, changes).unwrap();
        let drop_ins = format!("/run/systemd/system/{UNIT}.d");
        run(self.systemd.command("mkdir").unwrap().args(["-p", &drop_ins])).unwrap();
        run(self.systemd.command("cp").unwrap().arg(&drop_in).arg(&drop_ins)).unwrap();
    }

    fn program(&self) -> PathBuf {
        self.dir.join("jaunt-snapshotter")
    }

    /// `install` or `uninstall` of this machine, by the program as it was built: on it, or in mounts of its own with the machine's
    /// root directory below another one, as from a privileged pod among the machine's processes.
    fn change(&self, words: &[&str]) -> jaunt_tests::Result<String> {
        let program = self.bed.binaries.snapshotter(&self.bed.scratch, &[]).get_program().to_owned();
        let mut command = match self.from_pod {
            false => self.systemd.command(program).unwrap(),
            true => {
                let mut command = self.systemd.command("unshare").unwrap();
                command.args(["--mount", "sh", "-ec", IN_POD, "sh"]).arg(program);
                command
            }
        };
        let (first, more) = words.split_first().unwrap();
        command.arg(first).args(self.from_pod.then_some(["--host-root", HOST]).into_iter().flatten());
        let words = more;
        let said = run(command.args(words))?;
        self.await_containerd();
        Ok(said)
    }

    /// It has its own plugins a moment later than its socket.
    fn await_containerd(&self) {
        wait_until("containerd", LIMIT, || {
            let plugins = run(&mut self.containerd.ctr(&["plugins", "ls"])).unwrap_or_default();
            plugins.lines().any(|line| line.contains(" cri ") && line.trim_end().ends_with(" ok"))
        })
        .unwrap();
    }

    fn state(&self, unit: &str) -> String {
        self.systemd.property(unit, "ActiveState").unwrap()
    }

    fn containerd_uses(&self) -> bool {
        fs::read_to_string(self.containerd.config()).unwrap().contains("jaunt.sock")
    }

    /// The image's own command, apart from us: containerd is restarted meanwhile.
    fn detached(&self, snapshotter: &str, reference: &str, id: &str) {
        // The test's control groups have no controllers.
        let mut command = self.containerd.ctr(&["run", "--detach", "--null-io", "--cpu-shares", "0"]);
        command.args(["--snapshotter", snapshotter]);
        command.arg("--runc-root").arg(self.containerd.config().with_file_name("runc"));
        run(command.args([reference, id])).unwrap();
    }

    fn exec(&self, id: &str, exec: &str, script: &str) -> String {
        let mut command = self.containerd.ctr(&["tasks", "exec", "--exec-id", exec, "--fifo-dir"]);
        command.arg(self.bed.scratch.dir("fifo").unwrap());
        run(command.args([id, "/bin/sh", "-c", script])).unwrap()
    }
}

fn image() -> Image {
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755), file("data/unread", noise(3, UNREAD))]))
        .command(&["/bin/sh", "-ec", "echo ready; exec sleep 600"])
}

#[test]
fn services_are_started_restarted_and_stopped_by_what_installs_and_takes_back() {
    needs_root!();
    given_and_taken_back(false);
}

#[test]
fn a_pod_with_the_machines_root_directory_installs_and_takes_back_as_well() {
    needs_root!();
    given_and_taken_back(true);
}

fn given_and_taken_back(from_pod: bool) {
    if !Systemd::is_installed() {
        return eprintln!("skipped: {}: needs systemd", module_path!());
    }
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let machine = Machine::new(&bed, from_pod);
    let original = fs::read(machine.containerd.config()).unwrap();

    let program = machine.program();
    let (program, config) = (program.to_str().unwrap(), machine.containerd.config());
    let config = config.to_str().unwrap();
    machine.change(&["install", "--start", "--program", program, "--containerd-config", config]).unwrap();
    assert_eq!(machine.state(UNIT), "active");
    assert!(machine.containerd_uses());
    let mut pull = bed.binaries.snapshotter(&bed.scratch, &["pull", "--address"]);
    pull.arg(machine.containerd.socket()).arg("--hosts-dir").arg(machine.containerd.hosts_dir());
    let said = run(pull.arg("--socket").arg(machine.dir.join("jaunt.sock")).arg(&pushed.reference)).unwrap();
    assert!(said.contains("2 of 2 layers lazy"), "{said}");
    let id = format!("{}-drained", bed.scratch.name());
    machine.detached("jaunt", &pushed.reference, &id);

    machine.change(&["uninstall", "--drain", "--stop"]).unwrap();
    assert_eq!(machine.state(UNIT), "active", "a container runs on it");
    let read = machine.exec(&id, "late", "sha256sum /data/unread");
    assert!(read.starts_with(&Digest::of(&noise(3, UNREAD)).hex().to_string()), "{read}");

    run(&mut machine.containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id])).unwrap();
    let gone = || run(&mut machine.containerd.ctr(&["tasks", "rm", &id])).is_ok();
    wait_until("the container's end", LIMIT, gone).unwrap();
    run(&mut machine.containerd.ctr(&["containers", "rm", &id])).unwrap();
    machine.containerd.remove_images().unwrap();
    let none = || machine.containerd.snapshots("jaunt").is_ok_and(|names| names.is_empty());
    wait_until("the end of our snapshots", LIMIT, none).unwrap();
    machine.change(&["uninstall", "--stop"]).unwrap();
    assert_eq!(machine.state(UNIT), "inactive", "{:?}", machine.systemd.property(UNIT, "Result"));
    assert!(fs::read(machine.containerd.config()).unwrap() == original);
    machine.containerd.pull("overlayfs", &pushed.reference).unwrap();
    let id = format!("{}-unpacked", bed.scratch.name());
    machine.detached("overlayfs", &pushed.reference, &id);
    assert_eq!(machine.exec(&id, "read", "sha256sum /data/unread"), read);
    run(&mut machine.containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id])).unwrap();
}
