//! Ctrl-C and SIGTERM end a run at once, and nothing of it stays in the way.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Layer, Registry, noise, tar};

/// A small layer, and one that takes a while.
fn layers() -> Vec<Layer> {
    vec![Layer::gzip(&tar(&[("f", b"small")])), Layer::plain(&tar(&[("noise", &noise(48 << 20, 3))]))]
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-proxy"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends a signal as soon as there is something to clean up; exit code and standard error.
fn signalled(mut child: Child, signal: &str, under_way: impl Fn() -> bool) -> (Option<i32>, String) {
    let started = Instant::now();
    while !under_way() {
        assert!(started.elapsed() < Duration::from_secs(60), "it never begins");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was interrupted");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

fn entries(directory: &Path, start: &str) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start)).count()
}

#[test]
fn an_interrupted_conversion_leaves_no_uploads_in_the_registry_and_can_be_repeated() {
    let Some(registry) = Registry::start() else { return };
    let subject = registry.push_image("team/app", "v1", &layers());
    let reference = registry.reference("team/app:v1");
    let partial = format!("sha256-{}.jaunt-partial", subject.hex());
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        // One of which nothing has come may be one that jaunt-proxy was not told of yet: it is the registry's to forget.
        let is_sending = || registry.upload_lens("team/app").iter().any(|len| *len > 0);
        let under_way = || registry.manifest("team/app", &partial).is_some() && is_sending();
        let (ended, said) = signalled(start(&["convert", &reference]), signal, under_way);
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains("interrupted: what was finished is kept"), "{said}");
        assert_eq!(registry.uploads("team/app"), 0);
    }
    let report = registry.run(&["convert", "--json", &reference]).json();
    assert_eq!(report["layers_reused"], 1);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn an_interrupted_copy_leaves_no_files_in_a_layout() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("team/app", "v1", &layers());
    let directory = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:v1", directory.path().display());
    let reference = registry.reference("team/app:v1");
    let under_way = || entries(directory.path(), ".jaunt-upload-") > 0;
    let (ended, said) = signalled(start(&["convert", "--to", &layout, &reference]), "-INT", under_way);
    assert_eq!(ended, Some(130), "{said}");
    assert_eq!(entries(directory.path(), ".jaunt-upload-"), 0);
    registry.run(&["convert", "--to", &layout, &reference]).succeeded();
    registry.run(&["verify", &layout]).succeeded();
}
