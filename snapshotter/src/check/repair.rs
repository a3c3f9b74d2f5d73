//! Doing what a finding's remedy says.
//!
//! What a dropped record held is written to `<root>/dropped-records` first, so that nothing goes without a trace.

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jaunt_layerfs::index_file::open_index;
use jaunt_layerfs::store::{LargeFiles, Store};

use super::finding::{Action, Finding, Remedy};
use super::layout::{ASIDE, Layout, name};
use super::{CheckError, Repair};
use crate::metastore::{self, Table};

/// Takes the remedies that are allowed; what was done, in words, or why it could not be, for each finding that has one.
pub(super) fn apply(
    layout: &Layout,
    findings: &[Finding],
    repair: Repair,
) -> Result<Vec<(Finding, String)>, CheckError> {
    let allowed = findings.iter().filter(|finding| match finding.remedy {
        Remedy::None => false,
        Remedy::Safe(_) => true,
        Remedy::GiveUp(_) => repair == Repair::GiveUp,
    });
    let allowed: Vec<&Finding> = allowed.collect();
    let actions = || allowed.iter().flat_map(|finding| finding.remedy.actions());
    // What is kept is out of the way before the records go that forbid its removal.
    for path in actions().filter_map(kept) {
        move_aside(path).map_err(|source| CheckError::Io { root: path.to_owned(), source })?;
    }
    drop_rows(layout, actions().filter_map(row).collect())?;
    let mut done = Vec::new();
    for finding in allowed {
        let actions = finding.remedy.actions();
        let done_here = actions.iter().try_for_each(|action| one(layout, action));
        let steps: Vec<String> = actions.iter().map(ToString::to_string).collect();
        done.push((
            finding.clone(),
            match done_here {
                Ok(()) => steps.join("; "),
                Err(error) => format!("could not {}: {error}", steps.join("; ")),
            },
        ));
    }
    Ok(done)
}

fn row(action: &Action) -> Option<(Table, String)> {
    match action {
        Action::Drop(table, key) => Some((*table, key.clone())),
        _ => None,
    }
}

fn kept(action: &Action) -> Option<&Path> {
    match action {
        Action::MoveAside(path) => Some(path),
        _ => None,
    }
}

fn drop_rows(layout: &Layout, mut rows: Vec<(Table, String)>) -> Result<(), CheckError> {
    rows.sort();
    rows.dedup();
    if rows.is_empty() {
        return Ok(());
    }
    let io = |source| CheckError::Io { root: layout.root.clone(), source };
    note(&layout.root.join("dropped-records"), &rows, &metastore::read_rows(&layout.database(), &rows)?)
        .map_err(io)?;
    Ok(metastore::drop_rows(&layout.database(), &rows)?)
}

fn note(path: &Path, rows: &[(Table, String)], held: &[Option<Vec<u8>>]) -> io::Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    for ((table, key), held) in rows.iter().zip(held) {
        let held = held.as_deref().map(String::from_utf8_lossy);
        writeln!(file, "{}", serde_json::json!({"table": table.name(), "key": key, "record": held}))?;
    }
    file.sync_all()
}

fn one(layout: &Layout, action: &Action) -> Result<(), Box<dyn std::error::Error>> {
    match action {
        // All together, before the rest.
        Action::Drop(..) | Action::MoveAside(..) => Ok(()),
        Action::Remove(path) => Ok(remove(path)?),
        Action::MakeWork(path) => Ok(std::fs::DirBuilder::new().mode(0o711).create(path)?),
        Action::Mend { index, layer } => {
            let index = open_index(&layout.index(index))?;
            let large = LargeFiles::of_layers(&index);
            let store = Store::open(&layout.layers())?;
            if let (Some(of), Some(large)) = (index.layers().get(*layer), large.get(*layer)) {
                store.layer(of, large).mend()?;
            }
            Ok(())
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(stat) if stat.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn move_aside(path: &Path) -> io::Result<()> {
    let aside = |number: u32| -> PathBuf { path.with_file_name(format!("{}{ASIDE}{number}", name(path))) };
    let free = (1..u32::MAX).map(aside).find(|aside| !aside.exists());
    match std::fs::rename(path, free.unwrap_or_else(|| aside(u32::MAX))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
