//! Tables of a TOML document, by their path. Comments and order stay as they are.

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

/// Why a configuration cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is not TOML.
    #[error("it cannot be read")]
    Parse(#[source] Box<toml_edit::TomlError>),
    /// Something else is where a table must be.
    #[error("{0:?} is no table")]
    NotATable(String),
    /// Something else is where a list must be.
    #[error("{0:?} is no list")]
    NotAList(String),
    /// A format of the file that nobody knows.
    #[error("version = {0} is no version of the format that is known (1, 2 and 3 are)")]
    Format(i64),
    /// The change did not come out.
    #[error("{0} cannot be set in it: write it by hand")]
    NotSet(&'static str),
}

/// The table of a name in a table; a new one, if there is none.
pub(super) fn table<'t>(
    of: &'t mut dyn TableLike,
    key: &str,
    implicit: bool,
) -> Result<&'t mut dyn TableLike, EditError> {
    let new = || {
        let mut table = Table::new();
        table.set_implicit(implicit);
        Item::Table(table)
    };
    let item = of.entry(key).or_insert_with(new);
    item.as_table_like_mut().ok_or_else(|| EditError::NotATable(key.to_owned()))
}

/// The table at a path; those on the way come into being with it.
pub(super) fn path<'t>(root: &'t mut Table, path: &[&str]) -> Result<&'t mut dyn TableLike, EditError> {
    let mut at: &mut dyn TableLike = root;
    for (depth, key) in path.iter().enumerate() {
        at = table(at, key, depth + 1 < path.len())?;
    }
    Ok(at)
}

/// Sets a value and leaves the spaces and comments around it.
pub(super) fn set(table: &mut dyn TableLike, key: &str, new: Value) {
    let same = |old: &Value| {
        old.as_str().is_some_and(|text| new.as_str() == Some(text))
            || old.as_bool().is_some_and(|is| new.as_bool() == Some(is))
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) if same(old) => {}
        Some(old) => {
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        None => drop(table.insert(key, Item::Value(new))),
    }
}

/// Removes the tables of a path, from its end, that are empty and were not there.
pub(super) fn prune(root: &mut Table, original: &Table, path: &[&str]) {
    for len in (1..=path.len()).rev() {
        let (Some((last, above)), None) = (path[..len].split_last(), find(original, &path[..len])) else {
            return;
        };
        let is_empty = |item: &Item| item.as_table_like().is_some_and(TableLike::is_empty);
        let parent = if above.is_empty() {
            Some(root as &mut dyn TableLike)
        } else {
            find_mut(root, above).and_then(Item::as_table_like_mut)
        };
        match parent {
            Some(parent) if parent.get(last).is_some_and(is_empty) => drop(parent.remove(last)),
            _ => return,
        }
    }
}

/// Whether a text is what is wanted.
pub(super) fn uses(document: &DocumentMut, path: &[&str], key: &str, wanted: &str) -> bool {
    let table = find(document.as_table(), path).and_then(Item::as_table_like);
    table.and_then(|table| table.get(key)?.as_str()) == Some(wanted)
}

/// What is at a path.
pub(super) fn find<'t>(root: &'t Table, path: &[&str]) -> Option<&'t Item> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(root.get(first)?, |item, key| item.as_table_like()?.get(key))
}

/// The same, to be changed.
pub(super) fn find_mut<'t>(root: &'t mut Table, path: &[&str]) -> Option<&'t mut Item> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(root.get_mut(first)?, |item, key| item.as_table_like_mut()?.get_mut(key))
}
