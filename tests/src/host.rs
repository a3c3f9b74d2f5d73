//! What the machine offers: whether whole-system tests can run here, and what is missing if not.

use std::path::Path;

/// Programs the whole-system tests drive; `tests/deps.sh` installs them.
const TOOLS: [&str; 8] = ["containerd", "ctr", "runc", "docker-registry", "ip", "tc", "mount", "busybox"];

/// Why whole-system tests cannot run, or `None` when they can.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("needs /dev/fuse".to_owned());
    }
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| find(tool).is_none()).collect();
    (!missing.is_empty()).then(|| format!("needs {} (make deps installs them)", missing.join(", ")))
}

/// Where a program lies, looking where root's programs are too.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(Into::into);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Leaves the calling test, saying why, where whole-system tests cannot run.
#[macro_export]
macro_rules! needs_root {
    () => {
        if let Some(why) = $crate::host::obstacle() {
            eprintln!("skipped: {}: {why}", module_path!());
            return;
        }
    };
}

/// Leaves the calling test, saying why, where a program it needs besides those of all is not installed.
#[macro_export]
macro_rules! needs_programs {
    ($($program:literal),+) => {
        let missing: Vec<&str> = [$($program),+]
            .into_iter()
            .filter(|program| $crate::host::find(program).is_none())
            .collect();
        if !missing.is_empty() {
            eprintln!("skipped: {}: needs {}", module_path!(), missing.join(", "));
            return;
        }
    };
}
