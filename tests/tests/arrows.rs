//! Holds the workspace to the arrows of doc/ARCHITECTURE.md: which crate may use which, what some must
//! never know, and that no two top-level modules of a crate use each other, directly or in a ring.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crate, and the crates of the workspace it may use. What is not listed is forbidden.
const ARROWS: [(&str, &[&str]); 7] = [
    ("jaunt-formats", &[]),
    ("jaunt-distribution", &["jaunt-formats"]),
    ("jaunt-layerfs", &["jaunt-formats", "jaunt-distribution"]),
    ("jaunt-snapshotter", &["jaunt-formats", "jaunt-distribution", "jaunt-layerfs"]),
    ("jaunt-proxy", &["jaunt-formats", "jaunt-distribution"]),
    ("jaunt-tests", &["jaunt-formats"]),
    ("jaunt-benches", &["jaunt-formats", "jaunt-distribution", "jaunt-layerfs", "jaunt-tests"]),
];

/// Crate, and the libraries its code must not even be able to name.
const UNKNOWN: [(&str, &[&str]); 4] = [
    ("jaunt-formats", &["tokio", "reqwest", "rustix", "fuser", "tonic"]),
    ("jaunt-distribution", &["fuser", "tonic", "redb"]),
    ("jaunt-layerfs", &["tonic", "redb", "clap"]),
    ("jaunt-proxy", &["fuser", "tonic"]),
];

type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn crates_use_only_what_they_may() {
    let graph = crates();
    let listed: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(graph.keys().map(String::as_str).collect::<BTreeSet<_>>(), listed, "crates of the workspace");
    for (name, allowed) in ARROWS {
        let ours = graph[name].iter().filter(|used| listed.contains(used.as_str()));
        let forbidden: Vec<_> = ours.filter(|used| !allowed.contains(&used.as_str())).collect();
        assert!(forbidden.is_empty(), "{name} uses {forbidden:?}");
    }
    for (name, unknown) in UNKNOWN {
        let known: Vec<_> = unknown.iter().filter(|library| graph[name].contains(**library)).collect();
        assert!(known.is_empty(), "{name} must not depend on {known:?}");
    }
}

#[test]
fn no_modules_use_each_other_in_a_ring() {
    let rings: Vec<String> = crate_dirs()
        .into_iter()
        .filter_map(|dir| ring(&modules(&dir.join("src"))).map(|ring| format!("{}: {ring}", dir.display())))
        .collect();
    assert!(rings.is_empty(), "{}", rings.join("\n"));
}

fn metadata() -> serde_json::Value {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every crate with all it depends on, for whatever purpose.
fn crates() -> Graph {
    let metadata = metadata();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|p| (name(p), p["dependencies"].as_array().unwrap().iter().map(name).collect())).collect()
}

fn crate_dirs() -> Vec<PathBuf> {
    let metadata = metadata();
    let manifests =
        metadata["packages"].as_array().unwrap().iter().map(|p| p["manifest_path"].as_str().unwrap());
    manifests.map(|manifest| Path::new(manifest).parent().unwrap().to_owned()).collect()
}

/// The top-level modules of a crate, and which of the others each names.
fn modules(src: &Path) -> Graph {
    let files = rust_files(src);
    let top = |file: &Path| {
        let first = file.strip_prefix(src).unwrap().components().next().unwrap();
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    let roots = ["lib", "main", "bin"];
    let names: BTreeSet<String> =
        files.iter().map(|file| top(file)).filter(|name| !roots.contains(&name.as_str())).collect();
    let root = fs::read_to_string(src.join("lib.rs")).unwrap_or_default();
    let exported = re_exports(&root, &names);
    let mut graph: Graph = names.iter().map(|name| (name.clone(), BTreeSet::new())).collect();
    for file in &files {
        let Some(used) = graph.get_mut(&top(file)) else { continue };
        let text = fs::read_to_string(file).unwrap();
        let named = first_names(production(&text), "crate::").into_iter();
        used.extend(named.filter_map(|name| {
            if names.contains(&name) { Some(name) } else { exported.get(&name).cloned() }
        }));
    }
    graph.iter_mut().for_each(|(name, used)| {
        used.remove(name);
    });
    graph
}

/// What the root makes known under a shorter name, and where it comes from.
fn re_exports(root: &str, modules: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut from = BTreeMap::new();
    for module in modules {
        let uses = first_names(root, &format!("pub use {module}::"));
        from.extend(uses.into_iter().map(|name| (name, module.clone())));
    }
    from
}

/// A file without its unit tests, which may look anywhere.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

/// The first component of every path after `prefix`: `crate::a::B` and `crate::{a::B, c}` give a, c.
fn first_names(text: &str, prefix: &str) -> Vec<String> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => names.push(identifier(rest)),
            Some(group) => names.extend(group_members(group).into_iter().map(identifier)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The members of a `{...}` group whose opening brace is behind us, split at its own commas.
fn group_members(group: &str) -> Vec<&str> {
    let (mut members, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                members.push(&group[start..at]);
                return members;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members
}

/// A ring in the graph, written out, if there is one.
fn ring(graph: &Graph) -> Option<String> {
    fn visit<'g>(
        graph: &'g Graph,
        at: &'g str,
        path: &mut Vec<&'g str>,
        done: &mut BTreeSet<&'g str>,
    ) -> Option<String> {
        if let Some(start) = path.iter().position(|name| *name == at) {
            return Some([&path[start..], &[at]].concat().join(" -> "));
        }
        if !done.insert(at) {
            return None;
        }
        path.push(at);
        let found = graph[at].iter().find_map(|next| visit(graph, next, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| visit(graph, start, &mut Vec::new(), &mut done))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn paths_and_rings_are_found() {
    let text = "use crate::a::B;\n// crate::no\nuse crate::{c::{D, E}, f};\nlet x = crate::g::h();\n";
    assert_eq!(first_names(text, "crate::"), ["a", "c", "f", "g"]);
    let graph = |edges: &[(&str, &[&str])]| -> Graph {
        edges.iter().map(|(a, b)| ((*a).to_owned(), b.iter().map(|b| (*b).to_owned()).collect())).collect()
    };
    assert_eq!(ring(&graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
    let found = ring(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]));
    assert_eq!(found.as_deref(), Some("b -> c -> b"));
}
