//! A systemd of one's own: process 1 of a PID namespace, with a control group and mounts of its own.
//!
//! One directory is shared with the machine: what services mount there, containers outside see. What is written to /etc
//! and to root's home directory stays inside.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{At as _, Error, Result};
use crate::process::{Daemon, children, run, wait_until};
use crate::scratch::Scratch;

const PROGRAM: &str = "/lib/systemd/systemd";
const START_LIMIT: Duration = Duration::from_secs(30);

/// What becomes process 1. `$1` is the shared directory, `$2` has the units, `$3` is the scratch's name.
const SCRIPT: &str = r#"
groups=$(awk '$0 ~ / - cgroup2 / { print $5; exit }' /proc/self/mountinfo)
mkdir "$groups/$3"
echo $$ > "$groups/$3/cgroup.procs"
mount --bind "$1" "$1"
mount --make-shared "$1"
exec unshare --mount --pid --fork --kill-child --cgroup --mount-proc --propagation unchanged sh -ec '
    awk -v shared="$1" "\$5 != shared { print \$5 }" /proc/self/mountinfo | while read -r point; do
        mount --make-private "$(printf %b "$point")" 2> /dev/null || true
    done
    umount -R /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
    mount -t tmpfs none /run
    for dir in etc root; do
        mkdir /run/$dir /run/$dir.work
        mount -t overlay none /$dir -o lowerdir=/$dir,upperdir=/run/$dir,workdir=/run/$dir.work
    done
    mount -t tmpfs none /etc/systemd/system
    mkdir -p /run/systemd/system
    cp -r "$2"/. /run/systemd/system
    exec /lib/systemd/systemd --system --unit=jaunt-test.target --log-target=console --show-status=no
' sh "$1" "$2"
"#;

/// The target it comes up with: nothing.
const TARGET: &str = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n";

/// A running systemd; all of it ends when this is dropped.
#[derive(Debug)]
pub struct Systemd<'s> {
    scratch: &'s Scratch,
    daemon: Daemon,
    units: PathBuf,
}

impl<'s> Systemd<'s> {
    /// Whether this machine has one.
    pub fn is_installed() -> bool {
        Path::new(PROGRAM).exists() && crate::host::find("systemctl").is_some()
    }

    /// Starts one; `shared` is what it shares with the machine.
    pub fn start(scratch: &'s Scratch, shared: &Path) -> Result<Self> {
        let units = scratch.dir("units")?;
        let target = units.join("jaunt-test.target");
        fs::write(&target, TARGET).at(&target)?;
        let mut command = scratch.command("sh");
        command
            .args(["-ec", SCRIPT, "sh"])
            .arg(shared)
            .arg(&units)
            .arg(scratch.name())
            .env("container", "jaunt-test");
        let daemon = Daemon::spawn("systemd", &mut command, &scratch.logs())?;
        let mut systemd = Self { scratch, daemon, units };
        let scratch = systemd.scratch;
        let pid = systemd.daemon.pid();
        systemd.daemon.wait_until("its units", START_LIMIT, || {
            init(pid).is_some_and(|init| {
                run(control(scratch, init).args(["is-active", "--quiet", "jaunt-test.target"])).is_ok()
            })
        })?;
        Ok(systemd)
    }

    /// Has a unit, and what a drop-in changes of it.
    pub fn add(&self, name: &str, text: &str, changes: &str) -> Result<()> {
        let drop_ins = self.units.join(format!("{name}.d"));
        fs::create_dir_all(&drop_ins).at(&drop_ins)?;
        let (unit, drop_in) = (self.units.join(name), drop_ins.join("test.conf"));
        fs::write(&unit, text).at(&unit)?;
        fs::write(&drop_in, changes).at(&drop_in)?;
        let mut copy = self.command("cp")?;
        run(copy.arg("-r").arg(self.units.join(".")).arg("/run/systemd/system"))?;
        self.control(&["daemon-reload"]).map(|_| ())
    }

    /// `systemctl`.
    pub fn control(&self, words: &[&str]) -> Result<String> {
        run(self.command("systemctl")?.args(words))
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        Ok(self.control(&["show", "--value", "--property", name, unit])?.trim().to_owned())
    }

    /// Waits until a property is as it should be.
    pub fn await_property(&self, unit: &str, name: &str, wanted: &str) -> Result<()> {
        wait_until(&format!("{name}={wanted} of {unit}"), START_LIMIT, || {
            self.property(unit, name).is_ok_and(|value| value == wanted)
        })
    }

    /// A command that runs beside its services.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let init = init(self.daemon.pid()).ok_or_else(|| Error::unexpected("systemd", "it has ended"))?;
        Ok(enter(self.scratch, init, program))
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        // Whoever makes a PID namespace is deaf to all but this, and the namespace ends with it.
        if let Err(error) = self.daemon.kill() {
            eprintln!("ending systemd: {error}");
        }
    }
}

fn control(scratch: &Scratch, init: u32) -> Command {
    enter(scratch, init, "systemctl")
}

fn enter(scratch: &Scratch, init: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = scratch.command("nsenter");
    command.args(["--target", &init.to_string(), "--mount", "--pid"]).arg(program);
    command
}

/// Process 1, as it is numbered outside.
fn init(outer: u32) -> Option<u32> {
    children(outer).first().copied()
}
