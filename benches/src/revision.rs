//! Which sources are measured: figures of two commits are two figures.

use std::process::Command;

use jaunt_tests::process::run;

/// What stands behind the commit of sources that have changed since.
const CHANGED: &str = " and changes";

/// The commit that this program's sources are at, and whether they have changed since; `unknown` where git does not tell. The programs
/// under test are built of the same sources by whatever `make` target runs the measurement.
pub fn revision() -> String {
    let mut git = Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--abbrev=12", "--exclude=*"]);
    let said = run(git.arg(format!("--dirty={CHANGED}")));
    said.map_or_else(|_| "unknown".to_owned(), |said| said.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_a_commit_with_or_without_changes_or_unknown() {
        let told = revision();
        let commit = told.strip_suffix(CHANGED).unwrap_or(&told);
        let is_commit = commit.len() >= 12 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_commit || told == "unknown", "{told}");
    }
}
