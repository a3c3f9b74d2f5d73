//! containerd's configuration: our entries put into it, and taken out again. No I/O.
//!
//! Comments, order and everything of others stay as they are, byte for byte. What is there already is not touched, so
//! that doing it again changes nothing.

use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use super::version::Version;

/// The name by which containerd knows the snapshotter.
pub const NAME: &str = "jaunt";
/// What nodes use without us.
const USUAL: &str = "overlayfs";
const TRANSFER: &str = "io.containerd.transfer.v1.local";

/// What is to be configured.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The containerd that reads the file.
    pub containerd: Version,
    /// The snapshotter's socket.
    pub socket: &'a str,
    /// Where it keeps what it holds, for figures of the image file system.
    pub root: &'a str,
    /// Whether CRI is to pull with it.
    pub cri: bool,
}

/// Why a configuration cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is not TOML.
    #[error("it cannot be read")]
    Parse(#[source] Box<toml_edit::TomlError>),
    /// Something else is where a table must be.
    #[error("{0:?} is no table")]
    NotATable(String),
    /// A format of the file that nobody knows.
    #[error("version = {0} is no version of the format that is known (1, 2 and 3 are)")]
    Format(i64),
    /// The change did not come out.
    #[error("{0} cannot be set in it: write it by hand")]
    NotSet(&'static str),
}

/// Adds our entries.
pub fn add(text: &str, wanted: &Wanted<'_>) -> Result<String, EditError> {
    let mut document = parse(text)?;
    if document.is_empty() {
        document["version"] = value(if wanted.containerd >= Version::TWO { 3 } else { 2 });
    }
    let cri = cri_tables(format(&document)?);
    let root = document.as_table_mut();
    let plugin = table(table(root, "proxy_plugins", true)?, NAME, false)?;
    set(plugin, "type", "snapshot".into());
    set(plugin, "address", wanted.socket.into());
    if wanted.containerd >= Version::TWO {
        let exports = table(plugin, "exports", false)?;
        set(exports, "root", wanted.root.into());
        set(exports, "enable_remote_snapshot_annotations", "true".into());
    }
    if wanted.cri {
        let cri = path(root, cri)?;
        set(cri, "snapshotter", NAME.into());
        // The transfer service passes labels on by the export; this setting would have CRI do without that service.
        if wanted.containerd < Version::TRANSFER {
            set(cri, "disable_snapshot_annotations", false.into());
        }
    }
    if wanted.containerd >= Version::TRANSFER {
        unpack(path(root, &["plugins", TRANSFER])?)?;
    }
    let changed = document.to_string();
    let is_set =
        parse(&changed).is_ok_and(|again| uses(&again, &["proxy_plugins", NAME], "address", wanted.socket));
    if is_set { Ok(changed) } else { Err(EditError::NotSet("proxy_plugins")) }
}

/// Gives CRI back the snapshotter that it had in `original`; ours stays known, for what still runs on it.
pub fn drain(text: &str, original: &str) -> Result<String, EditError> {
    let (mut document, original) = (parse(text)?, parse(original)?);
    let cri = cri_tables(format(&document)?);
    give_back(&mut document, &original, cri, "snapshotter", |now| now.as_str() == Some(NAME));
    prune(document.as_table_mut(), original.as_table(), cri);
    Ok(document.to_string())
}

/// Takes our entries out, and gives the others the values that they had in `original`.
pub fn remove(text: &str, original: &str) -> Result<String, EditError> {
    let (mut document, original) = (parse(&drain(text, original)?)?, parse(original)?);
    let cri = cri_tables(format(&document)?);
    give_back(&mut document, &original, cri, "disable_snapshot_annotations", |now| {
        now.as_bool() == Some(false)
    });
    let root = document.as_table_mut();
    if let Some(plugins) = root.get_mut("proxy_plugins").and_then(Item::as_table_like_mut) {
        plugins.remove(NAME);
    }
    let had_unpack = find(original.as_table(), &["plugins", TRANSFER, "unpack_config"]).is_some();
    if let Some(transfer) = find_mut(root, &["plugins", TRANSFER]).and_then(Item::as_table_like_mut) {
        forget_unpack(transfer, had_unpack);
    }
    for path in [&["proxy_plugins"][..], cri, &["plugins", TRANSFER]] {
        prune(root, original.as_table(), path);
    }
    Ok(document.to_string())
}

/// Whether CRI is switched off in a configuration.
pub fn has_no_cri(text: &str) -> bool {
    let Ok(document) = parse(text) else { return false };
    let disabled = document.get("disabled_plugins").and_then(Item::as_array);
    let is_cri = |name: &str| {
        name == "cri"
            || name.starts_with("io.containerd.grpc.v1.cri")
            || name.starts_with("io.containerd.cri.")
    };
    disabled.is_some_and(|names| names.iter().filter_map(Value::as_str).any(is_cri))
}

/// What of a configuration as containerd sees it is not as wanted: other files may overrule the one that was written.
pub fn missing(dump: &str, wanted: &Wanted<'_>) -> Result<Vec<String>, EditError> {
    let document = parse(dump)?;
    let mut missing = Vec::new();
    if !uses(&document, &["proxy_plugins", NAME], "address", wanted.socket) {
        missing.push(format!("proxy_plugins.{NAME}"));
    }
    let cri = cri_tables(format(&document)?);
    if wanted.cri && !uses(&document, cri, "snapshotter", NAME) {
        missing.push(format!("{}.snapshotter", cri.join(".")));
    }
    Ok(missing)
}

fn parse(text: &str) -> Result<DocumentMut, EditError> {
    text.parse().map_err(|error| EditError::Parse(Box::new(error)))
}

/// The format of a configuration; one that does not say is of the first.
fn format(document: &DocumentMut) -> Result<i64, EditError> {
    match document.get("version").and_then(Item::as_integer).unwrap_or(1) {
        known @ 1..=3 => Ok(known),
        other => Err(EditError::Format(other)),
    }
}

/// Where CRI's snapshotter is named.
fn cri_tables(format: i64) -> &'static [&'static str] {
    match format {
        1 => &["plugins", "cri", "containerd"],
        2 => &["plugins", "io.containerd.grpc.v1.cri", "containerd"],
        _ => &["plugins", "io.containerd.cri.v1.images"],
    }
}

fn table<'t>(
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
fn path<'t>(root: &'t mut Table, path: &[&str]) -> Result<&'t mut dyn TableLike, EditError> {
    let mut at: &mut dyn TableLike = root;
    for (depth, key) in path.iter().enumerate() {
        at = table(at, key, depth + 1 < path.len())?;
    }
    Ok(at)
}

/// Sets a value and leaves the spaces and comments around it.
fn set(table: &mut dyn TableLike, key: &str, new: Value) {
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

/// The transfer service unpacks for what is listed alone, so what it does by default is listed as well.
fn unpack(transfer: &mut dyn TableLike) -> Result<(), EditError> {
    match transfer.get_mut("unpack_config") {
        None => {
            let mut list = ArrayOfTables::new();
            [NAME, USUAL].into_iter().for_each(|name| list.push(unpack_for(name)));
            transfer.insert("unpack_config", Item::ArrayOfTables(list));
        }
        Some(Item::ArrayOfTables(list)) => {
            if !list.iter().any(|entry| is_ours(entry)) {
                list.push(unpack_for(NAME));
            }
        }
        Some(Item::Value(Value::Array(list))) => {
            if !list.iter().filter_map(Value::as_inline_table).any(|entry| is_ours(entry)) {
                list.push(InlineTable::from_iter([("platform", "linux"), ("snapshotter", NAME)]));
            }
        }
        Some(_) => return Err(EditError::NotATable("unpack_config".to_owned())),
    }
    Ok(())
}

fn unpack_for(name: &str) -> Table {
    let mut entry = Table::new();
    entry.insert("platform", value("linux"));
    entry.insert("snapshotter", value(name));
    entry
}

fn is_ours(entry: &dyn TableLike) -> bool {
    entry.get("snapshotter").and_then(Item::as_str) == Some(NAME)
}

fn forget_unpack(transfer: &mut dyn TableLike, had_any: bool) {
    let left = match transfer.get_mut("unpack_config") {
        Some(Item::ArrayOfTables(list)) => {
            list.retain(|entry| !is_ours(entry));
            list.iter().all(|entry| entry.get("snapshotter").and_then(Item::as_str) == Some(USUAL))
        }
        Some(Item::Value(Value::Array(list))) => {
            list.retain(|entry| !entry.as_inline_table().is_some_and(|entry| is_ours(entry)));
            list.is_empty()
        }
        _ => return,
    };
    if left && !had_any {
        transfer.remove("unpack_config");
    }
}

/// Puts a value back to what it was, if it is still what we have set.
fn give_back(
    document: &mut DocumentMut,
    original: &DocumentMut,
    path: &[&str],
    key: &str,
    is_ours: impl Fn(&Value) -> bool,
) {
    let before =
        find(original.as_table(), path).and_then(|item| item.as_table_like()?.get(key)?.as_value().cloned());
    let Some(table) = find_mut(document.as_table_mut(), path).and_then(Item::as_table_like_mut) else {
        return;
    };
    if !table.get(key).and_then(Item::as_value).is_some_and(is_ours) {
        return;
    }
    match before {
        Some(before) => drop(table.insert(key, Item::Value(before))),
        None => drop(table.remove(key)),
    }
}

/// Removes the tables of a path, from its end, that are empty and were not there.
fn prune(root: &mut Table, original: &Table, path: &[&str]) {
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

fn uses(document: &DocumentMut, path: &[&str], key: &str, wanted: &str) -> bool {
    let table = find(document.as_table(), path).and_then(Item::as_table_like);
    table.and_then(|table| table.get(key)?.as_str()) == Some(wanted)
}

fn find<'t>(root: &'t Table, path: &[&str]) -> Option<&'t Item> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(root.get(first)?, |item, key| item.as_table_like()?.get(key))
}

fn find_mut<'t>(root: &'t mut Table, path: &[&str]) -> Option<&'t mut Item> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(root.get_mut(first)?, |item, key| item.as_table_like_mut()?.get_mut(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(major: u32, minor: u32) -> Wanted<'static> {
        let containerd = Version { major, minor };
        Wanted { containerd, socket: "/run/jaunt/snapshotter.sock", root: "/var/lib/jaunt", cri: true }
    }

    /// As distributions ship them, and as people write them.
    const FILES: [(&str, (u32, u32)); 6] = [
        ("", (1, 7)),
        ("", (2, 1)),
        ("# Docker's\ndisabled_plugins = [\"cri\"]\n\n#root = \"/var/lib/containerd\"\n", (1, 7)),
        (
            "version = 2\n\n# mine\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n      snapshotter = \"overlayfs\"   # the usual\n      disable_snapshot_annotations = true\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \"/etc/containerd/certs.d\"\n[proxy_plugins]\n  [proxy_plugins.other]\n    type = \"snapshot\"\n    address = \"/other\"\n",
            (1, 6),
        ),
        (
            "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'native'\n[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nplatform = 'linux'\nsnapshotter = 'native'\n",
            (2, 2),
        ),
        ("version = 3\n[plugins]\n\"io.containerd.cri.v1.images\" = { snapshotter = \"native\" }\n", (2, 1)),
    ];

    #[test]
    fn what_is_added_is_found_and_once_is_enough() {
        for (text, (major, minor)) in FILES {
            let wanted = wanted(major, minor);
            let added = add(text, &wanted).unwrap();
            assert_eq!(missing(&added, &wanted).unwrap(), [""; 0], "{added}");
            assert_eq!(add(&added, &wanted).unwrap(), added);
            for line in text
                .lines()
                .filter(|line| line.contains('#') || line.contains("other") || line.contains("certs.d"))
            {
                let kept = line.split('#').next_back().unwrap_or_default();
                assert!(added.contains(kept), "{line:?} is gone from {added}");
            }
        }
    }

    #[test]
    fn what_is_removed_leaves_what_was_there_before() {
        for (text, (major, minor)) in FILES {
            let added = add(text, &wanted(major, minor)).unwrap();
            let removed = remove(&added, text).unwrap();
            let said = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
            let mut left = said(&removed);
            if text.is_empty() {
                left.remove("version");
            }
            assert_eq!(left, said(text), "{removed}");
        }
    }

    #[test]
    fn what_others_have_changed_meanwhile_stays() {
        let (text, (major, minor)) = FILES[3];
        let added = add(text, &wanted(major, minor)).unwrap();
        let theirs = added.replace("snapshotter = \"jaunt\"", "snapshotter = \"native\"");
        let theirs = format!("oom_score = -1\n{theirs}");
        let removed = remove(&theirs, text).unwrap();
        assert!(removed.contains("snapshotter = \"native\"") && removed.contains("oom_score"), "{removed}");
        assert!(
            !removed.contains("jaunt") && removed.contains("disable_snapshot_annotations = true"),
            "{removed}"
        );
    }

    #[test]
    fn a_drained_node_pulls_as_before_and_still_knows_us() {
        for (text, (major, minor)) in FILES {
            let wanted = wanted(major, minor);
            let drained = drain(&add(text, &wanted).unwrap(), text).unwrap();
            assert_eq!(missing(&drained, &wanted).unwrap().len(), 1, "{drained}");
            assert!(drained.contains("/run/jaunt/snapshotter.sock"), "{drained}");
        }
    }

    #[test]
    fn versions_get_what_they_understand() {
        let old = add("", &wanted(1, 6)).unwrap();
        assert!(old.contains("version = 2") && old.contains("disable_snapshot_annotations = false"), "{old}");
        assert!(!old.contains("unpack_config") && !old.contains("exports"), "{old}");
        let new = add("", &wanted(2, 1)).unwrap();
        assert!(
            new.contains("version = 3") && new.contains("enable_remote_snapshot_annotations = \"true\""),
            "{new}"
        );
        assert_eq!(new.matches("unpack_config]]").count(), 2, "{new}");
        assert!(!new.contains("disable_snapshot_annotations"), "{new}");
        assert!(has_no_cri(FILES[2].0) && !has_no_cri(&new));
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        for bad in ["version = ", "version = 9", "proxy_plugins = 1", "version = 2\nplugins = []"] {
            assert!(add(bad, &wanted(1, 7)).is_err(), "{bad}");
        }
    }
}
