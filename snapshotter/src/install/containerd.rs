//! containerd's configuration: our entries put into it, and taken out again. No I/O.
//!
//! Comments, order and everything of others stay as they are, byte for byte. What is there already is not touched, so
//! that doing it again changes nothing.

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use super::tables::{EditError, find, find_mut, path, prune, set, table, uses};
use super::version::Version;

/// The name by which containerd knows the snapshotter.
pub const NAME: &str = "jaunt";
/// What nodes use without us.
const USUAL: &str = "overlayfs";
/// The transfer service.
pub(super) const TRANSFER: [&str; 2] = ["plugins", "io.containerd.transfer.v1.local"];
/// CRI's part for images, from containerd 2 on.
const IMAGES: [&str; 2] = ["plugins", "io.containerd.cri.v1.images"];
/// CRI, before that.
const CRI: [&str; 2] = ["plugins", "io.containerd.grpc.v1.cri"];
/// What of it is about containerd.
const CRI_CONTAINERD: [&str; 3] = [CRI[0], CRI[1], "containerd"];
/// Whether CRI keeps to itself what a snapshotter needs to know.
pub(super) const HIDES_LABELS: &str = "disable_snapshot_annotations";

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
    /// Whether the machine maps the ids of lazy images for user namespaces.
    pub maps_ids: bool,
}

/// Adds our entries.
pub fn add(text: &str, wanted: &Wanted<'_>) -> Result<String, EditError> {
    let mut document = parse(text)?;
    if document.is_empty() {
        document["version"] = value(if wanted.containerd >= Version::TWO { 3 } else { 2 });
    }
    let format = format(&document)?;
    let labels = wanted.containerd < Version::TRANSFER || pulls_by_itself(document.as_table());
    let root = document.as_table_mut();
    let plugin = table(table(root, "proxy_plugins", true)?, NAME, false)?;
    set(plugin, "type", "snapshot".into());
    set(plugin, "address", wanted.socket.into());
    if wanted.containerd >= Version::EXPORTS {
        set(table(plugin, "exports", false)?, "root", wanted.root.into());
    }
    if wanted.containerd >= Version::TWO {
        set(table(plugin, "exports", false)?, "enable_remote_snapshot_annotations", "true".into());
        if wanted.maps_ids {
            list(plugin, "capabilities", "remap-ids")?;
        }
    }
    if wanted.cri {
        for section in cri_tables(format, wanted.containerd >= Version::TWO) {
            let cri = path(root, section)?;
            set(cri, "snapshotter", NAME.into());
            // The transfer service passes labels on by the export; this setting has CRI do without that service.
            if labels {
                set(cri, HIDES_LABELS, false.into());
            }
        }
    }
    if wanted.containerd >= Version::TRANSFER {
        unpack(path(root, &TRANSFER)?)?;
    }
    let changed = document.to_string();
    let is_set =
        parse(&changed).is_ok_and(|again| uses(&again, &["proxy_plugins", NAME], "address", wanted.socket));
    if is_set { Ok(changed) } else { Err(EditError::NotSet("proxy_plugins")) }
}

/// Gives CRI back the snapshotter that it had in `original`; ours stays known, for what still runs on it.
pub fn drain(text: &str, original: &str) -> Result<String, EditError> {
    let (mut document, original) = (parse(text)?, parse(original)?);
    for cri in cri_tables(format(&document)?, true) {
        give_back(&mut document, &original, cri, "snapshotter", |now| now.as_str() == Some(NAME));
        prune(document.as_table_mut(), original.as_table(), cri);
    }
    Ok(document.to_string())
}

/// Takes our entries out, and gives the others the values that they had in `original`.
pub fn remove(text: &str, original: &str) -> Result<String, EditError> {
    let (mut document, original) = (parse(&drain(text, original)?)?, parse(original)?);
    let sections = cri_tables(format(&document)?, true);
    for cri in sections {
        give_back(&mut document, &original, cri, HIDES_LABELS, |now| now.as_bool() == Some(false));
    }
    let root = document.as_table_mut();
    if let Some(plugins) = root.get_mut("proxy_plugins").and_then(Item::as_table_like_mut) {
        plugins.remove(NAME);
    }
    let had_unpack = find(original.as_table(), &TRANSFER).and_then(|found| found.get("unpack_config"));
    if let Some(transfer) = find_mut(root, &TRANSFER).and_then(Item::as_table_like_mut) {
        forget_unpack(transfer, had_unpack.is_some());
    }
    for path in [&["proxy_plugins"][..], &TRANSFER].into_iter().chain(sections.iter().copied()) {
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

/// Whether CRI pulls without the transfer service: it is told so, or has a setting that only its own way of pulling heeds
/// (containerd's documentation of CRI, "Image Pull Configuration").
pub(super) fn pulls_by_itself(root: &Table) -> bool {
    [&IMAGES[..], &CRI, &CRI_CONTAINERD].into_iter().any(|section| {
        let setting = |key: &str| find(root, section)?.as_table_like()?.get(key);
        let is = |key, wanted: bool| setting(key).and_then(Item::as_bool) == Some(wanted);
        let has_registry = |key: &str| {
            let registry = setting("registry").and_then(Item::as_table_like);
            let entries = registry.and_then(|registry| registry.get(key)?.as_table_like());
            entries.is_some_and(|entries| !entries.is_empty())
        };
        is("use_local_image_pull", true)
            || is(HIDES_LABELS, false)
            || is("discard_unpacked_layers", true)
            || is("image_pull_with_sync_fs", true)
            || setting("max_concurrent_downloads").and_then(Item::as_integer).is_some_and(|most| most != 3)
            || ["mirrors", "configs", "auths"].into_iter().any(has_registry)
    })
}

/// Reads a configuration.
pub(super) fn parse(text: &str) -> Result<DocumentMut, EditError> {
    text.parse().map_err(|error| EditError::Parse(Box::new(error)))
}

/// The format of a configuration; one that does not say is of the first.
pub(super) fn format(document: &DocumentMut) -> Result<i64, EditError> {
    match document.get("version").and_then(Item::as_integer).unwrap_or(1) {
        known @ 1..=3 => Ok(known),
        other => Err(EditError::Format(other)),
    }
}

/// Where CRI's snapshotter is named. containerd 2 takes what a file of format 2 says of it for its own section only where the
/// file lists runtimes as well, so there it is named in both.
pub(super) fn cri_tables(format: i64, two: bool) -> &'static [&'static [&'static str]] {
    match (format, two) {
        (1, _) => &[&["plugins", "cri", "containerd"]],
        (2, false) => &[&CRI_CONTAINERD],
        (2, true) => &[&CRI_CONTAINERD, &IMAGES],
        _ => &[&IMAGES],
    }
}

/// Puts a word into a list, beside what others have put there.
fn list(table: &mut dyn TableLike, key: &str, word: &str) -> Result<(), EditError> {
    let list = table.entry(key).or_insert_with(|| value(Array::new()));
    let list = list.as_array_mut().ok_or_else(|| EditError::NotAList(key.to_owned()))?;
    if !list.iter().any(|listed| listed.as_str() == Some(word)) {
        list.push(word);
    }
    Ok(())
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

/// Whether an entry of a list of snapshotters is for ours.
pub(super) fn is_ours(entry: &dyn TableLike) -> bool {
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

#[cfg(test)]
mod tests {
    use super::super::merged::missing;
    use super::*;

    fn wanted(major: u32, minor: u32) -> Wanted<'static> {
        let containerd = Version { major, minor };
        let (socket, root) = ("/run/jaunt/snapshotter.sock", "/var/lib/jaunt");
        Wanted { containerd, socket, root, cri: true, maps_ids: true }
    }

    /// As distributions ship them, and as people write them.
    const FILES: [(&str, (u32, u32)); 8] = [
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
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n",
            (2, 1),
        ),
        ("version = 3\n[plugins.'io.containerd.cri.v1.images']\n  use_local_image_pull = true\n", (2, 1)),
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
            let missing = missing(&drained, &wanted).unwrap();
            assert!(
                !missing.is_empty() && missing.iter().all(|what| what.ends_with("snapshotter")),
                "{missing:?}"
            );
            assert!(drained.contains("/run/jaunt/snapshotter.sock"), "{drained}");
        }
    }

    #[test]
    fn versions_get_what_they_understand() {
        let old = add("", &wanted(1, 6)).unwrap();
        assert!(old.contains("version = 2") && old.contains("disable_snapshot_annotations = false"), "{old}");
        assert!(!old.contains("unpack_config") && !old.contains("exports"), "{old}");
        assert!(!old.contains("remap-ids"), "it would take uidmap= for an option of the file system: {old}");
        let new = add("", &wanted(2, 1)).unwrap();
        assert!(
            new.contains("version = 3") && new.contains("enable_remote_snapshot_annotations = \"true\""),
            "{new}"
        );
        assert_eq!(new.matches("unpack_config]]").count(), 2, "{new}");
        assert!(!new.contains("disable_snapshot_annotations"), "{new}");
        assert!(new.contains("capabilities = [\"remap-ids\"]"), "{new}");
        let other = "version = 3\n[proxy_plugins.jaunt]\ncapabilities = ['x']\n";
        assert!(add(other, &wanted(2, 1)).unwrap().contains("capabilities = ['x', \"remap-ids\"]"));
        let old_kernel = add("", &Wanted { maps_ids: false, ..wanted(2, 1) }).unwrap();
        assert!(!old_kernel.contains("capabilities"), "{old_kernel}");
        assert!(has_no_cri(FILES[2].0) && !has_no_cri(&new));
    }

    #[test]
    fn what_pulls_without_the_transfer_service_shows_its_labels() {
        let wanted = wanted(2, 1);
        let cri = "[plugins.'io.containerd.cri.v1.images']\n";
        for setting in [
            "use_local_image_pull = true",
            "max_concurrent_downloads = 10",
            "discard_unpacked_layers = true",
            "registry.mirrors.\"docker.io\".endpoint = [\"https://mirror.example\"]",
        ] {
            let added = add(&format!("version = 3\n{cri}{setting}\n"), &wanted).unwrap();
            assert!(added.contains("disable_snapshot_annotations = false"), "{added}");
            let hidden = added.replace("annotations = false", "annotations = true");
            let missing = missing(&hidden, &wanted).unwrap();
            assert!(matches!(&missing[..], [what] if what.ends_with("annotations = false")), "{missing:?}");
        }
        let usual = add(&format!("version = 3\n{cri}max_concurrent_downloads = 3\n"), &wanted).unwrap();
        assert!(!usual.contains("disable_snapshot_annotations"), "{usual}");
        let unlisted = usual.replace("unpack_config", "unpack_nothing");
        let missing = missing(&unlisted, &wanted).unwrap();
        assert!(matches!(&missing[..], [what] if what.contains("unpack_config")), "{missing:?}");
    }

    #[test]
    fn a_containerd_1_that_hides_labels_is_told() {
        let wanted = wanted(1, 7);
        let hidden = add("", &wanted).unwrap().replace("annotations = false", "annotations = true");
        assert_eq!(missing(&hidden, &wanted).unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        for bad in ["version = ", "version = 9", "proxy_plugins = 1", "version = 2\nplugins = []"] {
            assert!(add(bad, &wanted(1, 7)).is_err(), "{bad}");
        }
    }
}
