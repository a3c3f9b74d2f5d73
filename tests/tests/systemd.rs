//! doc/SEMANTICS.md P7: what a running container notices of the daemon's life as a service of systemd's. The unit is the one
//! that is shipped, but for paths and times.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::private::Private;
use common::{Bed, noise, package, runnable};
use jaunt_formats::Digest;
use jaunt_tests::image::{Image, Pushed, dir, file, layer};
use jaunt_tests::process::{run, signal_pid, wait_until};
use jaunt_tests::registry::{AUTH, PASSWORD, USER};
use jaunt_tests::{Container, Containerd, Jaunt, Snapshotter, Systemd, mounts, needs_root};
use rustix::process::Signal;

const UNIT: &str = "jaunt-snapshotter.service";
const TEXT: &str = include_str!("../../snapshotter/dist/systemd/jaunt-snapshotter.service");
const LIMIT: Duration = Duration::from_secs(120);
/// Stands for the containerd that runs outside: there is nothing to restart.
const CONTAINERD: &str =
    "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n";
/// As long as the one that it takes the place of.
const NEWER: &str = "9.8.7";
const FILES: u64 = 6;
const FILE_BYTES: usize = 1 << 20;

/// Reads `/data/$n` each time it is let on.
fn image(read: &str) -> Image {
    let files = (0..FILES).map(|n| file(format!("data/{n}"), noise(n + 1, FILE_BYTES)));
    let script = format!(
        "echo ready; n=0; while [ $n -lt {FILES} ]; do while [ ! -e /go$n ]; do sleep 0.05; done; \
         {read}; n=$((n+1)); done"
    );
    Image::new()
        .layer(layer(runnable()))
        .layer(layer([dir("data", 0o755)].into_iter().chain(files)))
        .command(&["/bin/sh", "-ec", &script])
}

/// A node whose daemon is a service.
struct Service<'s> {
    containerd: Containerd<'s>,
    systemd: Systemd<'s>,
    program: PathBuf,
    dir: PathBuf,
}

impl<'s> Service<'s> {
    /// Starts one, with more settings in the unit's section `[Service]`.
    fn with(bed: &'s Bed, settings: &str) -> Self {
        Self::begun(bed, settings, "")
    }

    /// The same in a working directory. Debian sid's systemd opens no log for a unit with `WorkingDirectory=` (status 209).
    fn with_in(bed: &'s Bed, settings: &str, directory: &Path) -> Self {
        let enter = format!("/bin/sh -c 'cd {} && exec \"$$0\" \"$$@\"' ", directory.display());
        Self::begun(bed, settings, &enter)
    }

    fn begun(bed: &'s Bed, settings: &str, by: &str) -> Self {
        let dir = bed.scratch.dir("jaunt").unwrap();
        let systemd = Systemd::start(&bed.scratch, &dir).unwrap();
        let config = dir.join("snapshotter.toml");
        // EROFS mounts need no daemon: what is to be seen here is FUSE.
        let text = "socket = \"DIR/jaunt.sock\"\nroot = \"DIR/root\"\navoid_kernel_features = [\"erofs\"]\n\
                    [completion]\nenabled = false\n";
        fs::write(&config, text.replace("DIR", &dir.display().to_string())).unwrap();
        let mut serve = Jaunt::command(&bed.binaries, &bed.scratch, &dir, &[bed.registry.host()]);
        serve.arg("--config").arg(&config);
        let program = dir.join("jaunt-snapshotter");
        fs::copy(serve.get_program(), &program).unwrap();
        let words: Vec<_> = serve.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let changes = format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nExecStartPre=\nExecStart=\nExecStart={by}{} {}\n\
             TimeoutStopSec=2\nRestartSec=100ms\n{settings}StandardOutput=append:{log}\nStandardError=append:{log}\n",
            program.display(),
            words.join(" "),
            log = bed.scratch.logs().join("service.log").display(),
        );
        systemd.add(UNIT, TEXT, &changes).unwrap();
        systemd.control(&["start", UNIT]).unwrap();
        let snapshotter = Snapshotter::Jaunt(dir.join("jaunt.sock"));
        let containerd =
            Containerd::start(&bed.scratch, "containerd", &snapshotter, &[bed.registry.host()]).unwrap();
        Self { containerd, systemd, program, dir }
    }

    fn pull(&self, bed: &Bed, reference: &str) {
        run(&mut self.pull_command(bed, reference)).unwrap();
    }

    fn pull_command(&self, bed: &Bed, reference: &str) -> Command {
        let mut command: Command = bed.binaries.snapshotter(&bed.scratch, &["pull", "--address"]);
        command.arg(self.containerd.socket()).arg("--hosts-dir").arg(self.containerd.hosts_dir());
        command.arg("--socket").arg(self.dir.join("jaunt.sock")).arg(reference);
        command
    }

    /// Lets the container read one file more, and returns what it found.
    fn next(&self, bed: &Bed, container: &mut Container, n: u64) -> String {
        self.let_on(bed, container, n);
        container.next_line(LIMIT).unwrap().unwrap()
    }

    /// Lets the container read one file more.
    fn let_on(&self, bed: &Bed, container: &Container, n: u64) {
        let task = "containerd/state/io.containerd.runtime.v2.task/k8s.io";
        let root = bed.scratch.path().join(task).join(container.id()).join("rootfs");
        fs::write(root.join(format!("go{n}")), "").unwrap();
    }

    fn main_pid(&self) -> String {
        self.systemd.property(UNIT, "MainPID").unwrap()
    }

    fn is_active(&self) {
        self.systemd.await_property(UNIT, "ActiveState", "active").unwrap();
    }

    fn await_another(&self, pid: &str) {
        wait_until("another supervisor", LIMIT, || !["0", pid].contains(&self.main_pid().as_str())).unwrap();
    }

    /// What the daemon says its version is.
    fn version(&self, bed: &Bed) -> String {
        self.status(bed)["version"].as_str().unwrap().to_owned()
    }

    fn status(&self, bed: &Bed) -> serde_json::Value {
        common::status_at(bed, &self.dir.join("jaunt.sock"))
    }

    /// Does in root's home directory, as the service sees it, what a script says.
    fn at_home(&self, script: &str) {
        let script = format!("cd \"$(getent passwd 0 | cut -d: -f6)\"; {script}");
        run(self.systemd.command("sh").unwrap().args(["-ec", &script])).unwrap();
    }

    /// The daemon's program with something else in it that takes as many bytes.
    fn altered(&self, bed: &Bed, from: &str, to: &str) -> PathBuf {
        assert_eq!(from.len(), to.len());
        let path = self.dir.join(format!("with-{to}"));
        fs::copy(&self.program, &path).unwrap();
        let mut sed = bed.scratch.command("sed");
        // A dot stands for any byte, and would have code replaced as well.
        let from = from.replace('.', r"\.");
        run(sed.env("LC_ALL", "C").args(["-i", &format!("s/{from}/{to}/g")]).arg(&path)).unwrap();
        path
    }

    /// Has a program put itself in the place of the one that serves. containerd runs outside, and knows the snapshotter.
    fn install(&self, program: &Path, patience: Duration) -> jaunt_tests::Result<String> {
        self.systemd.add("containerd.service", CONTAINERD, "").unwrap();
        run(self.systemd.command("mkdir").unwrap().args(["-p", "/etc/jaunt"])).unwrap();
        let config = self.dir.join("snapshotter.toml");
        run(self.systemd.command("cp").unwrap().arg(config).arg("/etc/jaunt/snapshotter.toml")).unwrap();
        let mut install = self.systemd.command(program).unwrap();
        install.arg("install").arg("--program").arg(&self.program).arg("--start");
        install.arg("--wait").arg(patience.as_secs().to_string());
        run(install.arg("--containerd-config").arg(self.containerd.config()))
    }
}

fn line(n: u64) -> String {
    format!("{}  /data/{n}", Digest::of(&noise(n + 1, FILE_BYTES)).hex())
}

/// A node whose container has read the first of its files; none on machines without systemd.
fn running<'b>(bed: &'b Bed, settings: &str) -> Option<(Service<'b>, Pushed, Container)> {
    running_image(bed, image("sha256sum /data/$n"), settings)
}

fn running_image<'b>(bed: &'b Bed, image: Image, settings: &str) -> Option<(Service<'b>, Pushed, Container)> {
    if !Systemd::is_installed() {
        eprintln!("skipped: {}: needs systemd", module_path!());
        return None;
    }
    let (_, pushed) = bed.converted(image);
    let service = Service::with(bed, settings);
    service.pull(bed, &pushed.reference);
    let mut container = service.containerd.run(&pushed.reference).unwrap();
    common::await_ready(&mut container);
    assert_eq!(service.next(bed, &mut container, 0), line(0));
    Some((service, pushed, container))
}

/// P7: Where a service manager keeps its descriptors, the daemon may be killed, restarted, stopped and started, or replaced by
/// another version: running containers go on, and their reads are answered rightly.
#[test]
fn whatever_happens_to_the_service_its_containers_run_on() {
    needs_root!();
    let bed = Bed::new();
    let Some((service, pushed, mut container)) = running(&bed, "") else { return };
    assert!(service.systemd.property(UNIT, "StatusText").unwrap().starts_with("serving"));

    let before = service.main_pid();
    service.systemd.control(&["kill", "--signal=KILL", "--kill-who=main", UNIT]).unwrap();
    service.await_another(&before);
    assert_eq!(service.next(&bed, &mut container, 1), line(1), "after kill -9 of the supervisor");
    service.is_active();

    service.systemd.control(&["restart", UNIT]).unwrap();
    assert_eq!(service.next(&bed, &mut container, 2), line(2), "after a restart");

    // A stop does not take away what is in use, and the next start takes it over.
    let _ = service.systemd.control(&["stop", UNIT]);
    assert_eq!(service.next(&bed, &mut container, 3), line(3), "after a stop");
    service.systemd.control(&["reset-failed", UNIT]).unwrap();
    let _ = service.systemd.control(&["start", UNIT]);
    service.is_active();
    for n in 4..FILES {
        assert_eq!(service.next(&bed, &mut container, n), line(n), "after stop and start");
    }
    container.finish(LIMIT).unwrap();
    drop(container);

    // It does what it is there for, and then ends and leaves nothing.
    service.pull(&bed, &pushed.reference);
    service.containerd.remove_images().unwrap();
    service.systemd.control(&["stop", UNIT]).unwrap();
    assert_eq!(service.systemd.property(UNIT, "NFileDescriptorStore").unwrap(), "0");
    assert!(mounts::below(&service.dir.join("run")).is_empty());
}

/// P7: Where a service manager keeps its descriptors, the daemon may be killed, restarted, stopped and started, or replaced by
/// another version: running containers go on, and their reads are answered rightly.
#[test]
fn a_read_that_waits_for_the_network_is_answered_after_a_restart() {
    needs_root!();
    let bed = Bed::new();
    // A kernel that reads for its page cache tries once more by itself.
    let read =
        "echo $(dd if=/data/$n bs=1M iflag=direct 2> /dev/null | sha256sum | head -c 64)\"  /data/$n\"";
    let Some((service, _, mut container)) = running_image(&bed, image(read), "") else { return };
    let before = service.main_pid();
    signal_pid(bed.registry.pid(), Signal::STOP);
    service.let_on(&bed, &container, 1);
    common::await_request(&bed, &service.dir.join("run"));
    service.systemd.control(&["restart", UNIT]).unwrap();
    assert_ne!(service.main_pid(), before, "it was replaced");
    signal_pid(bed.registry.pid(), Signal::CONT);
    assert_eq!(container.next_line(LIMIT).unwrap().unwrap(), line(1));
    for n in 2..FILES {
        assert_eq!(service.next(&bed, &mut container, n), line(n));
    }
    container.finish(LIMIT).unwrap();
}

/// `install` of another version replaces the one that serves, and of one that never comes to serve takes it back. Running
/// containers read on.
#[test]
fn another_version_takes_over_and_one_that_does_not_serve_is_taken_back() {
    needs_root!();
    let bed = Bed::new();
    let Some((service, _, mut container)) = running(&bed, "") else { return };
    let before = service.main_pid();
    let newer = service.altered(&bed, &service.version(&bed), NEWER);
    service.install(&newer, LIMIT).unwrap();
    assert_ne!(service.main_pid(), before, "it was replaced");
    assert_eq!(service.version(&bed), NEWER);
    assert_eq!(service.next(&bed, &mut container, 1), line(1), "after an upgrade");

    let mute = service.altered(&bed, "READY=1", "READX=1");
    let error = service.install(&mute, Duration::from_secs(3)).unwrap_err().to_string();
    assert!(error.contains("the old program and unit are back, and serve"), "{error}");
    assert_eq!(service.version(&bed), NEWER);
    for n in 2..FILES {
        assert_eq!(service.next(&bed, &mut container, n), line(n), "after an upgrade that failed");
    }
    container.finish(LIMIT).unwrap();
}

/// An upgrade of the package, its removal and its return are the service's restart, stop and start: running containers read on.
#[test]
fn the_packages_scripts_leave_running_containers_alone() {
    needs_root!();
    let bed = Bed::new();
    let Some((service, _, mut container)) = running(&bed, "") else { return };
    let newer = service.altered(&bed, &service.version(&bed), NEWER);
    service.systemd.control(&["enable", UNIT]).unwrap();
    // dpkg puts a new file in the old one's place.
    package::upgrade(&service.systemd, || fs::rename(&newer, &service.program).unwrap());
    assert_eq!(service.version(&bed), NEWER);
    assert_eq!(service.next(&bed, &mut container, 1), line(1), "after an upgrade");

    let kept = service.dir.join("kept");
    package::remove(&service.systemd, || fs::rename(&service.program, &kept).unwrap());
    assert_eq!(service.next(&bed, &mut container, 2), line(2), "after its removal");
    package::install(&service.systemd, "2", || fs::rename(&kept, &service.program).unwrap());
    service.is_active();
    for n in 3..FILES {
        assert_eq!(service.next(&bed, &mut container, n), line(n), "after its return");
    }
    container.finish(LIMIT).unwrap();
}

/// A supervisor that hangs is killed by the manager, and the next one takes over what it held.
#[test]
fn a_supervisor_that_hangs_is_replaced_and_its_containers_read_on() {
    needs_root!();
    let bed = Bed::new();
    let Some((service, _, mut container)) = running(&bed, "WatchdogSec=5\n") else { return };
    let before = service.main_pid();
    service.systemd.control(&["kill", "--signal=STOP", "--kill-who=main", UNIT]).unwrap();
    service.await_another(&before);
    service.is_active();
    for n in 1..FILES {
        assert_eq!(service.next(&bed, &mut container, n), line(n));
    }
    container.finish(LIMIT).unwrap();
}

/// The service has no variable that says where its user's home is, and yet finds what `docker login` has left there: a login,
/// or the name of a helper, which is as lost without it.
#[test]
fn the_service_has_the_logins_that_root_has_at_home() {
    needs_root!();
    if !Systemd::is_installed() {
        eprintln!("skipped: {}: needs systemd", module_path!());
        return;
    }
    let private = Private::new(image("sha256sum /data/$n"));
    let (bed, dir) = (&private.bed, private.login_dir());
    let path = format!("Environment=PATH={}:/usr/sbin:/usr/bin:/sbin:/bin\n", dir.display());
    let service = Service::with(bed, &format!("UnsetEnvironment=HOME\n{path}"));
    let copy = format!("rm -rf .docker; mkdir .docker; cp {}/config.json .docker", dir.display());
    service.at_home(&copy);
    let pull = |reference| run(private.logged_in(&mut service.pull_command(bed, reference))).unwrap();
    pull(&private.pushed.reference);
    assert_eq!(common::backings_in(&service.status(bed)), ["lazy"; 2]);
    let mut container = service.containerd.run(&private.pushed.reference).unwrap();
    common::await_ready(&mut container);
    assert_eq!(service.next(bed, &mut container, 0), line(0));

    let helper = format!(
        "#!/bin/sh\necho '{{\"Username\":\"{USER}\",\"Secret\":\"'\"$(cat \"$HOME/.docker/word\")\"'\"}}'\n"
    );
    fs::write(dir.join("docker-credential-home"), helper).unwrap();
    run(bed.scratch.command("chmod").arg("+x").arg(dir.join("docker-credential-home"))).unwrap();
    service.at_home(&format!(
        "echo '{{\"credsStore\":\"home\"}}' > .docker/config.json; printf {PASSWORD} > .docker/word"
    ));
    service.systemd.control(&["restart", UNIT]).unwrap();
    for n in 1..FILES {
        assert_eq!(service.next(bed, &mut container, n), line(n));
    }
    let other = layer([file("other", noise(99, FILE_BYTES))]);
    let other = private.converted(Image::new().layer(layer(runnable())).layer(other), "other");
    pull(&other.reference);
    assert_eq!(common::backings_in(&service.status(bed)), ["lazy"; 3], "one layer is known already");
    container.finish(LIMIT).unwrap();
}

/// L2: No login is written to a disk, a log or `status`. Nor is it in what the kernel writes when the daemon crashes.
#[test]
fn a_core_has_no_login_in_it() {
    needs_root!();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if !Systemd::is_installed() || pattern.contains(['|', '/']) {
        eprintln!("skipped: {}: needs systemd, and cores where a program runs", module_path!());
        return;
    }
    // Without the filter, what is looked for is there.
    for (settings, holds) in [
        ("", None),
        ("LimitCORE=infinity\n", Some(false)),
        ("LimitCORE=infinity\nCoredumpFilter=default\n", Some(true)),
    ] {
        let private = Private::new(Image::new().layer(layer(runnable())));
        let (bed, login) = (&private.bed, private.login_dir());
        let cores = bed.scratch.dir("cores").unwrap();
        let service = Service::with_in(bed, settings, &cores);
        service.at_home(&format!("mkdir -p .docker; cp {}/config.json .docker", login.display()));
        run(private.logged_in(&mut service.pull_command(bed, &private.pushed.reference))).unwrap();
        assert_eq!(common::backings_in(&service.status(bed)), ["lazy"]);

        let pid = service.main_pid();
        let children = || {
            let list = format!("/proc/{pid}/task/{pid}/children");
            run(service.systemd.command("cat").unwrap().arg(list)).unwrap().trim().to_owned()
        };
        let worker = children();
        run(service.systemd.command("kill").unwrap().args(["-ABRT", &worker])).unwrap();
        wait_until("another worker", LIMIT, || !["", &*worker].contains(&&*children())).unwrap();
        let core = fs::read_dir(&cores).unwrap().next().map(|core| core.unwrap().path());
        let is_in = |core: PathBuf| {
            bed.scratch.command("grep").args(["-qaF", AUTH]).arg(core).status().unwrap().success()
        };
        assert_eq!(core.map(is_in), holds, "{settings}");
    }
}
