//! containerd's filters: which snapshots a List returns.
//!
//! Grammar (containerd, pkg/filters; whitespace between tokens is skipped):
//!
//! ```text
//! selectors := selector ("," selector)*        all must match
//! selector  := fieldpath (operator value)?     without operator: the field is present
//! fieldpath := field ("." field)*
//! field     := quoted | [A-Za-z0-9_]+
//! operator  := "==" | "!=" | "~="              ~= searches for a regular expression
//! value     := quoted | [^\s,]+
//! quoted    := a Go string in "", or after ~= also in // or ||
//! ```
//!
//! Several filters are alternatives; none at all matches everything.

mod parser;
mod scanner;

use regex::Regex;

use crate::metastore::Snapshot;

/// A filter string that breaks the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {input:?}, byte {at}: {what}")]
pub struct FilterError {
    /// The whole filter.
    pub input: String,
    /// Where it breaks.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

/// Alternatives, each a conjunction of selectors.
#[derive(Debug, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
    /// An expression that does not compile matches nothing, as in containerd.
    Never,
}

/// Bytes in one filter: containerd's are well below a kilobyte.
const FILTER_MAX: usize = 64 << 10;
/// Bounds a compiled expression's memory.
const REGEX_MAX: usize = 1 << 20;

impl Filters {
    /// Parses alternatives.
    pub fn parse(filters: &[String]) -> Result<Self, FilterError> {
        filters.iter().map(|filter| parser::parse(filter)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether any alternative selects the snapshot.
    pub fn select(&self, snapshot: &Snapshot) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|selector| selector.select(snapshot)))
    }
}

impl Selector {
    fn select(&self, snapshot: &Snapshot) -> bool {
        let value = field(snapshot, &self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(want) => value == Some(want),
            Test::NotEqual(want) => value != Some(want),
            Test::Matches(regex) => value.is_some_and(|value| regex.is_match(value)),
            Test::Never => false,
        }
    }
}

fn field<'a>(snapshot: &'a Snapshot, path: &[String]) -> Option<&'a str> {
    match path.first()?.as_str() {
        "kind" => Some(snapshot.kind.as_str()),
        "name" => Some(&snapshot.name),
        "parent" => Some(snapshot.parent.as_deref().unwrap_or_default()),
        "labels" => snapshot.labels.get(&path[1..].join(".")).map(String::as_str),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::lazy::Usage;
    use crate::metastore::{Backing, Kind};

    fn snapshot() -> Snapshot {
        Snapshot {
            name: "k8s.io/7/sha256:ab".to_owned(),
            id: 7,
            kind: Kind::Committed,
            parent: Some("k8s.io/6/sha256:cd".to_owned()),
            labels: [("containerd.io/snapshot.ref", "sha256:ab"), ("l", "1"), ("deep.er", "é\"q")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            backing: Backing::Eager,
            usage: Usage::default(),
        }
    }

    fn select(filter: &str) -> bool {
        Filters::parse(&[filter.to_owned()]).unwrap().select(&snapshot())
    }

    #[test]
    fn selects_what_containerd_selects() {
        for filter in [
            "",
            r#"labels."containerd.io/snapshot.ref"==sha256:ab,parent=="k8s.io/6/sha256:cd""#,
            "kind==committed",
            "kind!=active, labels.l",
            "labels.l==1",
            "labels.deep.er",
            r#"labels."deep.er"=="\u00e9\"\x71""#,
            "name~=sha256",
            "name~=/sha256:a.$/",
            r"name~=|^k8s\\.io/|",
            "parent!=\"\"",
            "labels.absent!=x",
        ] {
            assert!(select(filter), "{filter} should select");
        }
        for filter in [
            "kind==active",
            "name==sha256:ab",
            "labels.absent",
            "labels.l==2",
            "labels.l,labels.absent",
            "parent==\"\"",
            "unknown==x",
            "name~=(",
        ] {
            assert!(!select(filter), "{filter} should not select");
        }
    }

    #[test]
    fn alternatives_are_any() {
        let filters = ["name==x".to_owned(), "labels.l==1".to_owned()];
        assert!(Filters::parse(&filters).unwrap().select(&snapshot()));
        assert!(Filters::parse(&[]).unwrap().select(&snapshot()));
    }

    #[test]
    fn refuses_what_containerd_refuses() {
        for filter in [
            "name==",
            "name=x",
            "name===x",
            "==x",
            ",",
            "name==x,",
            "labels.",
            "name==\"x",
            "a b",
            "name==/x/",
            "\0",
            "name==\"\\q\"",
        ] {
            assert!(Filters::parse(&[filter.to_owned()]).is_err(), "{filter:?} was accepted");
        }
    }
}
