//! containerd's own tests of snapshotters, all of them, through the socket that containerd calls.
//!
//! The suite is a Go package of Debian's; `tests/containerd-suite` makes a program of it, built once and kept below
//! `target`. What containerd's overlayfs makes of each test, in the same minute on the same kernel, is what
//! ours has to make of it: a test that is missing, fails, or is skipped beyond that is a failure.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use jaunt_tests::{Binaries, Jaunt, Scratch, mounts, needs_programs, needs_root};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/containerd-suite");
/// Where Debian has the sources of Go packages, and the suite's among them.
const GO_PACKAGES: &str = "/usr/share/gocode";
const SUITE: &str = "/usr/share/gocode/src/github.com/containerd/containerd/snapshots/testsuite";
/// How many tests the suite has, and how many of them overlayfs passes: less would be less than was asked.
const TESTS: usize = 21;
const PASSED: usize = 20;

/// A test's name and its outcome: `PASS`, `FAIL` or `SKIP`.
type Outcomes = BTreeMap<String, String>;

#[test]
fn containerds_own_suite_passes_as_it_does_with_overlayfs() {
    needs_root!();
    needs_programs!("go", "cc");
    if !Path::new(SUITE).exists() {
        eprintln!("skipped: {}: needs golang-github-containerd-containerd-dev", module_path!());
        return;
    }
    let scratch = Scratch::new().unwrap();
    let binaries = Binaries::find().unwrap();
    let program = built(&scratch);
    let work = scratch.dir("work").unwrap();
    let suite = |select: &str| {
        let mut command = scratch.command(&program);
        command.env("TMPDIR", &work).env_remove("JAUNT_SOCKET");
        command.args(["-test.v", "-test.root", "-test.parallel", "1", "-test.run", select]);
        command
    };

    let (measure, said) = outcomes(&mut suite("^TestSnapshotter$"));
    assert!(measure.len() >= TESTS, "{said}");
    assert!(measure.values().filter(|outcome| *outcome == "PASS").count() >= PASSED, "{said}");
    let mut ours = Outcomes::new();
    let mut words = String::new();
    for (n, name) in measure.keys().enumerate() {
        let mut jaunt = Jaunt::start(&binaries, &scratch, &format!("jaunt-{n}"), &[]).unwrap();
        let select = format!("^TestSnapshotter$/^{name}$");
        let (outcome, said) = outcomes(suite(&select).env("JAUNT_SOCKET", jaunt.socket()));
        jaunt.stop().unwrap();
        words += &said;
        ours.extend(outcome);
    }
    ours.iter().for_each(|(name, outcome)| println!("{outcome} {name}"));
    assert_eq!(ours, measure, "{words}");
    assert!(mounts::below(scratch.path()).is_empty(), "{:?}", mounts::below(scratch.path()));
}

/// The program, which Go builds anew where its sources have changed.
fn built(scratch: &Scratch) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("containerd-suite");
    let program = dir.join("suite");
    let mut command = scratch.command("go");
    command.args(["test", "-c", "-o"]).arg(&program).arg(".").current_dir(SOURCE);
    command.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOPATH", GO_PACKAGES);
    command.env("GOCACHE", dir.join("cache"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// Runs tests of the suite, and returns the outcome of each and all that was said.
fn outcomes(command: &mut Command) -> (Outcomes, String) {
    let output = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // "    --- PASS: TestSnapshotter/Basic (0.11s)"
    let outcome = |line: &str| {
        let (outcome, test) = line.trim().strip_prefix("--- ")?.split_once(": TestSnapshotter/")?;
        Some((test.split(' ').next()?.to_owned(), outcome.to_owned()))
    };
    (said.lines().filter_map(outcome).collect(), said)
}
