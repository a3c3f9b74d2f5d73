//! Directories of snapshots without a record, and records without a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::finding::{Action, Code, Finding, Remedy};
use super::layout::{ASIDE, Layout, children, name};
use super::records::{Record, Records};
use crate::metastore::{Kind, Table};
use crate::mountinfo;

pub(super) fn check(layout: &Layout, records: &Records, findings: &mut Vec<Finding>) -> io::Result<()> {
    let eager = records.by_name.values().filter(|record| record.lazy.is_none());
    let eager: BTreeMap<u64, &Record> = eager.map(|record| (record.id, record)).collect();
    for record in eager.values() {
        findings.extend(files(layout, records, record));
    }
    for path in children(&layout.snapshots())? {
        let what = path.display().to_string();
        match name(&path).parse::<u64>() {
            Ok(id) if eager.contains_key(&id) => {}
            Ok(_) => findings.push(Finding {
                code: Code::StrayDirectory,
                what,
                detail: "no snapshot is on record for it".to_owned(),
                remedy: Remedy::Safe(vec![Action::Remove(path)]),
            }),
            Err(_) if name(&path).contains(ASIDE) => {
                findings.push(Finding::unknown(&path, "moved aside by a repair: look at it, and remove it"));
            }
            Err(_) => findings.push(Finding::unknown(&path, "nothing that the daemon makes has such a name")),
        }
    }
    for path in children(&layout.trash())? {
        findings.push(Finding {
            code: Code::Discarded,
            what: path.display().to_string(),
            detail: "the files of a removed snapshot".to_owned(),
            remedy: Remedy::Safe(vec![Action::Remove(path)]),
        });
    }
    mounts(layout, records, findings)
}

fn files(layout: &Layout, records: &Records, record: &Record) -> Option<Finding> {
    let own = layout.snapshots().join(record.id.to_string());
    if !own.join("fs").is_dir() {
        let detail = format!("{} is gone{}", own.join("fs").display(), records.standing_on(&record.name));
        let remedy = Remedy::GiveUp(vec![Action::Drop(Table::Snapshots, record.name.clone())]);
        return Some(Finding { code: Code::FilesMissing, what: record.name.clone(), detail, remedy });
    }
    let work = own.join("work");
    (record.kind == Kind::Active && !work.is_dir()).then(|| Finding {
        code: Code::WorkMissing,
        what: record.name.clone(),
        detail: format!("{} is gone", work.display()),
        remedy: Remedy::Safe(vec![Action::MakeWork(work)]),
    })
}

/// Mounts of no snapshot, and what was noted of mounts that are gone. The supervisor names both by the snapshot's id.
fn mounts(layout: &Layout, records: &Records, findings: &mut Vec<Finding>) -> io::Result<()> {
    let Ok(run_dir) = layout.run_dir.canonicalize() else { return Ok(()) };
    let ids: BTreeSet<String> = records.by_name.values().map(|record| record.id.to_string()).collect();
    let is_on_record = |key: &str| ids.contains(key.split('-').next().unwrap_or_default());
    let mounted: Vec<String> = mountinfo::below(&run_dir)?.iter().map(|mount| name(&mount.point)).collect();
    for key in mounted.iter().filter(|key| !is_on_record(key)) {
        findings.push(Finding {
            code: Code::StrayMount,
            what: layout.mounts().join(key).display().to_string(),
            detail: "mounted for a snapshot that is not on record; the daemon unmounts it".to_owned(),
            remedy: Remedy::None,
        });
    }
    for path in children(&layout.backing())? {
        if !mounted.contains(&name(&path)) {
            findings.push(Finding {
                code: Code::StrayMount,
                what: path.display().to_string(),
                detail: "noted of a mount that is gone".to_owned(),
                remedy: Remedy::Safe(vec![Action::Remove(path)]),
            });
        }
    }
    Ok(())
}
