//! Every promise of doc/SEMANTICS.md has a test that quotes it, and no test quotes what is not promised any more.
//!
//! A promise is the first sentence of a point, `- **S1** …`. A test quotes it in its doc comment: `S1: …`. Whatever
//! else a comment has to say of a promise, it says of `doc/SEMANTICS.md S1`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A promise's name and its words.
type Promises = BTreeMap<String, String>;

/// Directories of the workspace that hold no code of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "fuzz"];

#[test]
fn every_promise_is_quoted_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let promises = promises(&fs::read_to_string(root.join("doc/SEMANTICS.md")).unwrap());
    assert!(promises.len() > 20, "only {} promises were found", promises.len());
    let mut quoted = Promises::new();
    let mut stale = Vec::new();
    for file in sources(root) {
        for (name, words) in quotes(&fs::read_to_string(&file).unwrap()) {
            match promises.get(&name) {
                Some(promise) if *promise == words => drop(quoted.insert(name, words)),
                other => stale.push(format!("{}: {name}: {words:?}, promised: {other:?}", file.display())),
            }
        }
    }
    let unquoted: Vec<_> = promises.iter().filter(|(name, _)| !quoted.contains_key(*name)).collect();
    assert!(stale.is_empty(), "quoted, but not promised in these words:\n{}", stale.join("\n"));
    assert!(unquoted.is_empty(), "promised, but quoted by no test: {unquoted:#?}");
}

/// `- **B1** First sentence. Explanation.`, up to the next point or an empty line.
fn promises(document: &str) -> Promises {
    let mut promises = Promises::new();
    let points = document.split("\n- **").skip(1);
    for point in points {
        let point = point.split("\n\n").next().unwrap();
        let Some((name, text)) = point.split_once("** ").filter(|(name, _)| is_name(name)) else { continue };
        let before = promises.insert(name.to_owned(), first_sentence(text));
        assert!(before.is_none(), "{name} is promised twice");
    }
    promises
}

/// What doc comments of tests quote.
fn quotes(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = source.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let Some(line) = line.strip_prefix("///") else { continue };
        let mut comment = line.trim().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with("///")) {
            comment = format!("{comment} {}", more.trim_start_matches('/').trim());
        }
        let is_test = lines.peek().is_some_and(|line| line.starts_with("#[") && line.contains("test"));
        let words: Vec<&str> = comment.split(' ').collect();
        for (at, word) in words.iter().enumerate() {
            let Some(name) = word.strip_suffix(':').filter(|name| is_name(name)) else { continue };
            // A mention in words of its own.
            if at > 0 && words[at - 1] == "doc/SEMANTICS.md" {
                continue;
            }
            assert!(is_test, "{name} is quoted by what is no test: {comment}");
            found.push((name.to_owned(), first_sentence(&words[at + 1..].join(" "))));
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    let digits = text.trim_start_matches(|letter: char| letter.is_ascii_uppercase());
    text.len() - digits.len() == 1 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Up to the first full stop that ends a word; line breaks are blanks.
fn first_sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.find(". ") {
        Some(end) => text[..end].to_owned(),
        None => text.trim_end_matches('.').to_owned(),
    }
}

fn sources(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap()) {
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                if !SKIPPED.contains(&name.to_str().unwrap_or_default()) {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn promises_and_quotes_are_found() {
    let document = "# Title\n\n- **S1** One promise,\n  in two lines. Explained.\n- **B22** Another (e.g.\n  this).\n\n- **no** promise.";
    let found = promises(document);
    let expected = [("B22".to_owned(), "Another (e.g"), ("S1".to_owned(), "One promise, in two lines")];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected.map(|(name, words)| (name, words.to_owned())));
    let source = "/// S1: One promise,\n    /// in two lines. And more.\n#[test]\nfn f() {}\n/// SHA256: no.\nfn g() {}";
    assert_eq!(quotes(source), [("S1".to_owned(), "One promise, in two lines".to_owned())]);
}
