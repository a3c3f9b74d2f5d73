//! Programs run from the mount: mapped, with set-user-ID bits and capabilities.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::fixture::{Image, Node, dir, file, symlink};
use crate::mounted::{Mounted, can_mount};

/// Whether `user` may read a file.
pub fn can_read_as(user: u32, path: &Path) -> bool {
    let mut command = Command::new("chroot");
    command.arg(format!("--userspec={user}:{user}")).args(["/", "cat"]).arg(path);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// A statically linked busybox in the image, or nothing where this machine has none.
fn program() -> Option<Vec<u8>> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| std::fs::read(path).ok());
    if found.is_none() {
        eprintln!("skipped: there is no busybox");
    }
    found
}

fn image(program: Vec<u8>, more: Vec<Node>) -> Image {
    let mut nodes = vec![dir("bin"), file("bin/busybox", program).mode(0o755)];
    nodes.extend(["sh", "cat"].map(|name| symlink(&format!("bin/{name}"), "busybox")));
    nodes.extend(more);
    Image::new(vec![nodes])
}

/// Runs a command in the image, as a user without any rights.
fn run(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg("--userspec=65534:65534").arg(root).args(words).env_clear().env("PATH", "/bin");
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn programs_and_scripts_run_from_the_mount() {
    let Some(program) = program().filter(|_| can_mount()) else { return };
    let script = file("bin/script", "#!/bin/sh\necho \"from $0\"\n").mode(0o755);
    let mounted = Mounted::new(image(program, vec![script, file("bin/data", "#!/bin/sh\n").mode(0o644)]));
    for root in mounted.roots() {
        assert_eq!(text(&run(&root, &["sh", "-c", "echo $((6*7))"])), "42");
        assert_eq!(text(&run(&root, &["script"])), "from /bin/script");
        assert!(!run(&root, &["/bin/data"]).status.success(), "a file that is not executable was run");
    }
}

/// The lines of `/proc/self/status` that start with `what`, of a copy of cat(1) in the image, started by a user
/// without any rights.
fn status_of(program: &Path, what: &str) -> String {
    let mut command = Command::new("/usr/sbin/chroot");
    let output = command.args(["--userspec=65534:65534", "/"]).arg(program).arg("/proc/self/status").output();
    let text = text(&output.unwrap());
    text.lines().filter(|line| line.starts_with(what)).collect()
}

fn cats(capability: &[u8]) -> Mounted {
    let program = std::fs::read("/bin/cat").unwrap();
    Mounted::new(Image::new(vec![vec![
        file("plain", program.clone()).mode(0o755),
        file("raised", program.clone()).mode(0o6755).owner(7, 12),
        file("capable", program).mode(0o755).xattr("security.capability", capability),
    ]]))
}

/// cap_net_raw=ep, as setcap(8) writes it: revision 2, effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// S18: Programs run from the mount, with their set-user-ID bits and file capabilities.
#[test]
fn set_user_id_bits_are_honoured() {
    if !can_mount() {
        return;
    }
    let mounted = cats(&CAPABILITY);
    for root in mounted.roots() {
        assert_eq!(status_of(&root.join("plain"), "Uid:"), "Uid:\t65534\t65534\t65534\t65534");
        assert_eq!(status_of(&root.join("raised"), "Uid:"), "Uid:\t65534\t7\t7\t7");
        assert_eq!(status_of(&root.join("raised"), "Gid:"), "Gid:\t65534\t12\t12\t12");
    }
}

#[test]
fn file_capabilities_are_honoured() {
    if !can_mount() {
        return;
    }
    let mounted = cats(&CAPABILITY);
    for root in mounted.roots() {
        assert_eq!(status_of(&root.join("plain"), "CapEff:"), "CapEff:\t0000000000000000");
        assert_eq!(status_of(&root.join("capable"), "CapEff:"), "CapEff:\t0000000000002000");
    }
}
