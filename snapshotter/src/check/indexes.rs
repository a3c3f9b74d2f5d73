//! Launch indexes, the layers that they bring, and the images that are made of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use jaunt_formats::{ChainId, Digest};
use jaunt_layerfs::erofs;
use jaunt_layerfs::index_file::{MappedIndex, open_index};
use jaunt_layerfs::store::LargeFiles;
use jaunt_layerfs::store::check::{self as layers, LayerFault};

use super::finding::{Action, Code, Finding, Remedy};
use super::layout::{Layout, children, name};
use super::records::{Record, Records};
use crate::fallback::error_chain;
use crate::index_store::TEMPORARY;
use crate::metastore::Table;

/// What the lazy snapshots use.
#[derive(Default)]
struct Wanted {
    images: BTreeSet<String>,
    layers: HashSet<PathBuf>,
}

pub(super) fn check(
    layout: &Layout,
    records: &Records,
    deep: bool,
    findings: &mut Vec<Finding>,
) -> io::Result<()> {
    let mut users: BTreeMap<Digest, Vec<&Record>> = BTreeMap::new();
    for record in records.by_name.values() {
        if let Some(lazy) = record.lazy {
            users.entry(lazy.index).or_default().push(record);
        }
    }
    let mut wanted = Wanted::default();
    let mut all_known = true;
    for (index, users) in &users {
        let lazy = users.iter().filter_map(|record| record.lazy);
        wanted.images.extend(lazy.map(|lazy| format!("{}-{}", index.hex(), lazy.prefix)));
        match open(layout, index) {
            Ok(open) => {
                one(layout, records, (index, &open), users, findings);
                let prefix = users.iter().filter_map(|record| record.lazy).map(|lazy| lazy.prefix).max();
                look_at_layers(layout, (index, &open), prefix.unwrap_or(0), deep, &mut wanted, findings)?;
            }
            Err((code, detail)) => {
                all_known = false;
                findings.push(broken(layout, records, index, users, (code, detail)));
            }
        }
    }
    unused_indexes(layout, &users, findings)?;
    images(layout, &wanted, deep, findings)?;
    // As long as an index cannot be read, it cannot be told which layers are its own.
    kept_layers(layout, all_known.then_some(&wanted), findings)
}

fn open(layout: &Layout, index: &Digest) -> Result<MappedIndex, (Code, String)> {
    let path = layout.index(index);
    if !path.exists() {
        return Err((Code::IndexMissing, format!("{} is gone", path.display())));
    }
    open_index(&path).map_err(|error| (Code::IndexDamaged, error_chain(&error)))
}

/// An index of no use: nothing can be served by it, not even what is local.
fn broken(
    layout: &Layout,
    records: &Records,
    index: &Digest,
    users: &[&Record],
    (code, detail): (Code, String),
) -> Finding {
    let names: Vec<&str> = users.iter().map(|record| record.name.as_str()).collect();
    let most = users.iter().max_by_key(|record| record.lazy.map(|lazy| lazy.prefix));
    let above = most.map(|record| records.standing_on(&record.name)).unwrap_or_default();
    let mut actions: Vec<Action> =
        names.iter().map(|name| Action::Drop(Table::Snapshots, (*name).to_owned())).collect();
    if code == Code::IndexDamaged {
        actions.push(Action::Remove(layout.index(index)));
    }
    let detail = format!("{detail}; it serves {}{above}", names.join(", "));
    Finding { code, what: index.to_string(), detail, remedy: Remedy::GiveUp(actions) }
}

fn one(
    layout: &Layout,
    records: &Records,
    (index, open): (&Digest, &MappedIndex),
    users: &[&Record],
    findings: &mut Vec<Finding>,
) {
    let chains: Vec<ChainId> = ChainId::prefixes(&open.diff_ids()).collect();
    for record in users {
        let Some(lazy) = record.lazy else { continue };
        let chain = usize::from(lazy.prefix).checked_sub(1).and_then(|at| chains.get(at));
        if chain != Some(&lazy.chain_id) {
            findings.push(Finding {
                code: Code::ChainMismatch,
                what: record.name.clone(),
                detail: format!("the first {} layers of {index} are not {}", lazy.prefix, lazy.chain_id),
                remedy: Remedy::GiveUp(vec![Action::Drop(Table::Snapshots, record.name.clone())]),
            });
        }
    }
    if records.sources.as_ref().is_some_and(|known| !known.contains(index)) {
        findings.push(Finding {
            code: Code::SourcesMissing,
            what: index.to_string(),
            detail: "no repository is known to have its layers: what is not local cannot be read until an image with it is pulled again".to_owned(),
            remedy: Remedy::None,
        });
    }
    let verdict = layout.layers().join("verdicts").join(format!("index-{}", index.hex()));
    if let Ok(why) = std::fs::read_to_string(verdict) {
        findings.push(Finding {
            code: Code::Quarantined,
            what: index.to_string(),
            detail: format!("in quarantine: {why}; remove the image, and pull it again"),
            remedy: Remedy::None,
        });
    }
}

fn look_at_layers(
    layout: &Layout,
    (index, open): (&Digest, &MappedIndex),
    prefix: u16,
    deep: bool,
    wanted: &mut Wanted,
    findings: &mut Vec<Finding>,
) -> io::Result<()> {
    let large = LargeFiles::of_layers(open);
    let all = open.layers().iter().zip(&large).enumerate().take(prefix.into());
    for (number, (layer, large)) in all {
        let path = layers::directory_of(&layout.layers(), layer, large);
        // Of several images with the layer, one look is enough.
        if !wanted.layers.insert(path.clone()) {
            continue;
        }
        let faults = match layers::look(&layout.layers(), layer, large, deep) {
            Ok(faults) => faults,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        findings.extend(faults.iter().map(|fault| {
            let (code, detail) = in_words(fault);
            let remedy = Remedy::Safe(vec![Action::Mend { index: *index, layer: number }]);
            Finding { code, what: path.display().to_string(), detail, remedy }
        }));
    }
    Ok(())
}

fn in_words(fault: &LayerFault) -> (Code, String) {
    match fault {
        LayerFault::Record => (Code::LayerRecord, "the record of what is present is damaged".to_owned()),
        LayerFault::Incomplete { bytes } => {
            (Code::LayerIncomplete, format!("it is marked complete, and {bytes} bytes are missing"))
        }
        LayerFault::Damaged { bytes, complete: true } => (
            Code::LayerDamaged,
            format!("{bytes} bytes are not what was written, and the kernel may read them unchecked"),
        ),
        LayerFault::Damaged { bytes, complete: false } => (
            Code::LayerStale,
            format!("{bytes} bytes are not what was written: who reads them has them fetched again"),
        ),
    }
}

fn unused_indexes(
    layout: &Layout,
    users: &BTreeMap<Digest, Vec<&Record>>,
    findings: &mut Vec<Finding>,
) -> io::Result<()> {
    for path in children(&layout.indexes())? {
        let index = format!("sha256:{}", name(&path)).parse::<Digest>();
        let (code, detail) = match index {
            Ok(index) if users.contains_key(&index) => continue,
            Ok(_) => (Code::UnusedIndex, "no snapshot uses it"),
            Err(_) if name(&path).starts_with(TEMPORARY) => {
                (Code::LeftOver, "an unfinished write of a launch index")
            }
            Err(_) => {
                findings.push(Finding::unknown(&path, "it is no launch index"));
                continue;
            }
        };
        let what = path.display().to_string();
        let remedy = Remedy::Safe(vec![Action::Remove(path)]);
        findings.push(Finding { code, what, detail: detail.to_owned(), remedy });
    }
    Ok(())
}

fn images(layout: &Layout, wanted: &Wanted, deep: bool, findings: &mut Vec<Finding>) -> io::Result<()> {
    for path in children(&layout.images())? {
        let (code, detail) = match wanted.images.contains(&name(&path)) {
            false => (Code::UnusedImage, "no snapshot uses it"),
            true if deep && !erofs::is_sound(&path)? => {
                (Code::ImageDamaged, "it is not what was written: a new one is made for the next mount")
            }
            true => continue,
        };
        let what = path.display().to_string();
        let remedy = Remedy::Safe(vec![Action::Remove(path)]);
        findings.push(Finding { code, what, detail: detail.to_owned(), remedy });
    }
    Ok(())
}

fn kept_layers(layout: &Layout, wanted: Option<&Wanted>, findings: &mut Vec<Finding>) -> io::Result<()> {
    let root: &Path = &layout.layers();
    if let Some(wanted) = wanted {
        for kept in layers::kept(root)?.into_iter().filter(|kept| !wanted.layers.contains(&kept.path)) {
            findings.push(Finding {
                code: Code::UnusedLayer,
                what: kept.path.display().to_string(),
                detail: format!("{} bytes that no snapshot uses", kept.bytes),
                remedy: Remedy::Safe(vec![Action::Remove(kept.path)]),
            });
        }
    }
    for path in layers::left_over(root)? {
        findings.push(Finding {
            code: Code::LeftOver,
            what: path.display().to_string(),
            detail: "left by an interrupted write or removal".to_owned(),
            remedy: Remedy::Safe(vec![Action::Remove(path)]),
        });
    }
    Ok(())
}
