//! What containerd makes of all its files together, as `containerd config dump` prints it.

use std::path::PathBuf;

use toml_edit::{Item, TableLike, Value};

use super::containerd::{
    HIDES_LABELS, NAME, TRANSFER, Wanted, cri_tables, format, is_ours, parse, pulls_by_itself,
};
use super::tables::{EditError, find, uses};
use super::version::Version;

/// What is not as wanted: other files may overrule the one that was written.
pub fn missing(dump: &str, wanted: &Wanted<'_>) -> Result<Vec<String>, EditError> {
    let document = parse(dump)?;
    let root = document.as_table();
    let mut missing = Vec::new();
    let plugin = ["proxy_plugins", NAME];
    if !uses(&document, &plugin, "address", wanted.socket) {
        missing.push(format!("{}.address", plugin.join(".")));
    }
    let transfers = wanted.containerd >= Version::TRANSFER;
    if transfers && !find(root, &TRANSFER).is_some_and(unpacks_for_us) {
        missing.push(format!("{}.unpack_config for {NAME}", TRANSFER.join(".")));
    }
    // One that prints what it makes of them has one section, the last; a file of format 2 has both.
    let sections = cri_tables(format(&document)?, wanted.containerd >= Version::TWO);
    for cri in sections.iter().filter(|_| wanted.cri) {
        if !uses(&document, cri, "snapshotter", NAME) {
            missing.push(format!("{}.snapshotter", cri.join(".")));
        }
        let shows = find(root, cri).and_then(|cri| cri.get(HIDES_LABELS)?.as_bool()) == Some(false);
        if !shows && (!transfers || pulls_by_itself(root)) {
            missing.push(format!("{}.{HIDES_LABELS} = false", cri.join(".")));
        }
    }
    Ok(missing)
}

/// The socket on which it is asked.
pub fn address(dump: &str) -> Option<PathBuf> {
    let document = parse(dump).ok()?;
    let address = document.get("grpc")?.get("address")?.as_str()?;
    (!address.is_empty()).then(|| address.into())
}

fn unpacks_for_us(transfer: &Item) -> bool {
    match transfer.get("unpack_config") {
        Some(Item::ArrayOfTables(list)) => list.iter().any(|entry| is_ours(entry as &dyn TableLike)),
        Some(Item::Value(Value::Array(list))) => {
            list.iter().filter_map(Value::as_inline_table).any(|entry| is_ours(entry))
        }
        _ => false,
    }
}
