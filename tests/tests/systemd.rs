//! doc/SEMANTICS.md P7: what a running container notices of the daemon's life as a service of systemd's. The unit is the one
//! that is shipped, but for paths and times.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{Bed, noise, runnable};
use jaunt_formats::Digest;
use jaunt_tests::image::{Image, dir, file, layer};
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Container, Containerd, Jaunt, Snapshotter, Systemd, mounts, needs_root};

const UNIT: &str = "jaunt-snapshotter.service";
const TEXT: &str = include_str!("../../snapshotter/dist/systemd/jaunt-snapshotter.service");
const LIMIT: Duration = Duration::from_secs(120);
const FILES: u64 = 6;
const FILE_BYTES: usize = 1 << 20;

/// Reads a file each time it is let on.
fn image() -> Image {
    let files = (0..FILES).map(|n| file(format!("data/{n}"), noise(n + 1, FILE_BYTES)));
    let script = format!(
        "echo ready; n=0; while [ $n -lt {FILES} ]; do while [ ! -e /go$n ]; do sleep 0.05; done; \
         sha256sum /data/$n; n=$((n+1)); done"
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
    fn start(bed: &'s Bed) -> Self {
        Self::with(bed, "")
    }

    /// The same with more settings in the section `[Service]`.
    fn with(bed: &'s Bed, settings: &str) -> Self {
        let dir = bed.scratch.dir("jaunt").unwrap();
        let systemd = Systemd::start(&bed.scratch, &dir).unwrap();
        let config = dir.join("snapshotter.toml");
        // EROFS mounts need no daemon: what is to be seen here is FUSE.
        fs::write(&config, "avoid_kernel_features = [\"erofs\"]\n").unwrap();
        let mut serve = Jaunt::command(&bed.binaries, &bed.scratch, &dir, &[bed.registry.host()]);
        serve.arg("--config").arg(&config);
        let program = dir.join("jaunt-snapshotter");
        fs::copy(serve.get_program(), &program).unwrap();
        let words: Vec<_> = serve.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let changes = format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nExecStartPre=\nExecStart=\nExecStart={} {}\n\
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
        let mut command: Command = bed.binaries.snapshotter(&bed.scratch, &["pull", "--address"]);
        command.arg(self.containerd.socket()).arg("--hosts-dir").arg(self.containerd.hosts_dir());
        run(command.arg("--socket").arg(self.dir.join("jaunt.sock")).arg(reference)).unwrap();
    }

    /// Lets the container read one file more, and returns what it found.
    fn next(&self, bed: &Bed, container: &mut Container, n: u64) -> String {
        let task = "containerd/state/io.containerd.runtime.v2.task/k8s.io";
        let root = bed.scratch.path().join(task).join(container.id()).join("rootfs");
        fs::write(root.join(format!("go{n}")), "").unwrap();
        container.next_line(LIMIT).unwrap().unwrap()
    }

    fn main_pid(&self) -> String {
        self.systemd.property(UNIT, "MainPID").unwrap()
    }

    fn is_active(&self) {
        self.systemd.await_property(UNIT, "ActiveState", "active").unwrap();
    }
}

fn line(n: u64) -> String {
    format!("{}  /data/{n}", Digest::of(&noise(n + 1, FILE_BYTES)).hex())
}

/// P7: Where a service manager keeps its descriptors, the daemon may be killed, restarted, stopped and started, or replaced by
/// another version: running containers go on, and their reads are answered rightly.
#[test]
fn whatever_happens_to_the_service_its_containers_run_on() {
    needs_root!();
    if !Systemd::is_installed() {
        eprintln!("skipped: {}: needs systemd", module_path!());
        return;
    }
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let service = Service::start(&bed);
    service.pull(&bed, &pushed.reference);
    let mut container = service.containerd.run(&pushed.reference).unwrap();
    common::await_ready(&mut container);
    assert_eq!(service.next(&bed, &mut container, 0), line(0));
    assert!(service.systemd.property(UNIT, "StatusText").unwrap().starts_with("serving"));

    let before = service.main_pid();
    service.systemd.control(&["kill", "--signal=KILL", "--kill-who=main", UNIT]).unwrap();
    wait_until("another supervisor", LIMIT, || !["0", &before].contains(&service.main_pid().as_str()))
        .unwrap();
    assert_eq!(service.next(&bed, &mut container, 1), line(1), "after kill -9 of the supervisor");
    service.is_active();

    service.systemd.control(&["restart", UNIT]).unwrap();
    assert_eq!(service.next(&bed, &mut container, 2), line(2), "after a restart");

    let newer = service.dir.join("newer");
    fs::copy(&service.program, &newer).unwrap();
    fs::rename(&newer, &service.program).unwrap();
    service.systemd.control(&["restart", UNIT]).unwrap();
    assert_eq!(service.next(&bed, &mut container, 3), line(3), "after an upgrade");

    // A stop does not take away what is in use, and the next start takes it over.
    let _ = service.systemd.control(&["stop", UNIT]);
    assert_eq!(service.next(&bed, &mut container, 4), line(4), "after a stop");
    service.systemd.control(&["reset-failed", UNIT]).unwrap();
    let _ = service.systemd.control(&["start", UNIT]);
    service.is_active();
    assert_eq!(service.next(&bed, &mut container, 5), line(5), "after stop and start");
    container.finish(LIMIT).unwrap();
    drop(container);

    // It does what it is there for, and then ends and leaves nothing.
    service.pull(&bed, &pushed.reference);
    service.containerd.remove_images().unwrap();
    service.systemd.control(&["stop", UNIT]).unwrap();
    assert_eq!(service.systemd.property(UNIT, "NFileDescriptorStore").unwrap(), "0");
    assert!(mounts::below(&service.dir.join("run")).is_empty());
}

/// A supervisor that hangs is killed by the manager, and the next one takes over what it held.
#[test]
fn a_supervisor_that_hangs_is_replaced_and_its_containers_read_on() {
    needs_root!();
    if !Systemd::is_installed() {
        eprintln!("skipped: {}: needs systemd", module_path!());
        return;
    }
    let bed = Bed::new();
    let (_, pushed) = bed.converted(image());
    let service = Service::with(&bed, "WatchdogSec=5\n");
    service.pull(&bed, &pushed.reference);
    let mut container = service.containerd.run(&pushed.reference).unwrap();
    common::await_ready(&mut container);
    assert_eq!(service.next(&bed, &mut container, 0), line(0));
    let before = service.main_pid();
    service.systemd.control(&["kill", "--signal=STOP", "--kill-who=main", UNIT]).unwrap();
    wait_until("another supervisor", LIMIT, || !["0", &before].contains(&service.main_pid().as_str()))
        .unwrap();
    service.is_active();
    for n in 1..FILES {
        assert_eq!(service.next(&bed, &mut container, n), line(n));
    }
    container.finish(LIMIT).unwrap();
}
