//! Every committed corpus file through its target; and the seeds that corpora grow from.

use std::fs;
use std::path::PathBuf;

use super::TARGETS;

fn corpora() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn every_corpus_file_passes() {
    for (name, target) in TARGETS {
        let mut files: Vec<PathBuf> =
            fs::read_dir(corpora().join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 1, "{name} has no corpus");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                panic!("{} breaks a promise", file.display());
            }
        }
    }
}

#[test]
fn every_target_has_its_program_and_every_corpus_its_target() {
    let names = |dir: &str| {
        let entries = fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(dir)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
}
