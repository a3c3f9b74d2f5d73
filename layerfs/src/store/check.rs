//! Looking through a store that nobody needs to have open, without changing it, and mending what is damaged.
//!
//! Looking is right beside a daemon as well: what another process writes meanwhile is looked at twice before it is
//! called damaged.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use jaunt_formats::DiffId;
use jaunt_formats::launch::LaunchLayer;

use super::complete;
use super::cut::{Cut, LAYOUT};
use super::direct::ReadFrom;
use super::files::Files;
use super::large::LargeFiles;
use super::layer_file::LayerFile;
use super::on_disk::record_path;
use super::record::{Record, Sum};
use super::verdicts;
use super::{LayerKey, Store, StoreError, diff_id_of, usage};

/// Units that are read at a time.
const STRIDE: usize = 64;

/// What is wrong with a layer's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerFault {
    /// The record of what is present is none, or another layer's.
    Record,
    /// The layer is marked complete, though so many bytes of it are not there.
    Incomplete {
        /// Bytes that are missing.
        bytes: u64,
    },
    /// Bytes that are claimed to be there are not what was written.
    Damaged {
        /// How many.
        bytes: u64,
        /// Whether the layer is marked complete, so that the kernel may read them without a check.
        complete: bool,
    },
}

/// A layer's files, in one cut.
#[derive(Clone, Debug)]
pub struct KeptLayer {
    /// The layer, as the index that brought it claims.
    pub diff_id: DiffId,
    /// Where they are.
    pub path: PathBuf,
    /// What they occupy.
    pub bytes: u64,
}

/// Where a layer's files are, or would be.
pub fn directory_of(root: &Path, layer: &LaunchLayer, large: &LargeFiles) -> PathBuf {
    let key = LayerKey { diff_id: layer.diff_id, cut: Cut::of(layer, large).name() };
    root.join(key.diff_id.0.hex()).join(key.cut.to_string())
}

/// Every layer that is kept, in each of its cuts.
///
/// # Errors
/// The directory cannot be read.
pub fn kept(root: &Path) -> io::Result<Vec<KeptLayer>> {
    let kept = usage::measure(root)?.into_iter().filter_map(|kept| {
        let is_cut = kept.cut.as_encoded_bytes().starts_with(LAYOUT.as_bytes());
        let diff_id = diff_id_of(&kept.diff_id).filter(|_| is_cut)?;
        Some(KeptLayer { diff_id, path: kept.path, bytes: kept.bytes })
    });
    Ok(kept.collect())
}

/// What writes and removals that were interrupted have left.
///
/// # Errors
/// The directory cannot be read.
pub fn left_over(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for path in children(root)? {
        let name = path.file_name().unwrap_or_default();
        if diff_id_of(name).is_some() {
            for cut in children(&path)? {
                let name = cut.file_name().unwrap_or_default().to_owned();
                if !name.as_encoded_bytes().starts_with(LAYOUT.as_bytes()) {
                    left.push(cut);
                } else {
                    left.extend(children(&cut)?.into_iter().filter(|path| is_aside(path)));
                }
            }
        } else if verdicts::is_directory(name) {
            left.extend(children(&path)?.into_iter().filter(|path| is_aside(path)));
        } else {
            left.push(path);
        }
    }
    Ok(left)
}

/// Compares a layer's files with what they should be: the record and the mark of completeness, and if `deep`, all that
/// is there with its checksums. A layer that is not kept is sound.
///
/// # Errors
/// The disk fails.
pub fn look(root: &Path, layer: &LaunchLayer, large: &LargeFiles, deep: bool) -> io::Result<Vec<LayerFault>> {
    let directory = directory_of(root, layer, large);
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let cut = Cut::of(layer, large);
    let complete = complete::is_marked(&directory);
    let Some(record) = Record::look(&record_path(&directory), cut.units())? else {
        // The record comes into being with the files: for a moment there is none.
        return Ok(if complete || record_path(&directory).exists() {
            vec![LayerFault::Record]
        } else {
            Vec::new()
        });
    };
    let missing = || (0..cut.units()).filter(|&unit| !record.has(unit));
    let mut faults = Vec::new();
    if complete && !record.all(0..cut.units()) {
        let bytes = missing().flat_map(|unit| cut.ranges_of(unit..unit + 1)).map(|range| len(&range)).sum();
        faults.push(LayerFault::Incomplete { bytes });
    }
    if deep {
        let bytes = damaged(&directory, &cut, large, &record)?;
        if bytes > 0 {
            faults.push(LayerFault::Damaged { bytes, complete });
        }
    }
    Ok(faults)
}

impl LayerFile {
    /// Reads all that is there, and takes away what is not what was written, so that it is fetched again. How many bytes
    /// that were.
    ///
    /// # Errors
    /// The disk fails, or does not let that be noted.
    pub fn mend(&self) -> Result<u64, StoreError> {
        let disk = self.on_disk()?;
        let fail =
            |source| StoreError { path: self.directory.clone(), what: "take away what is damaged", source };
        let mut bytes = 0;
        for units in strides(self.cut.units()) {
            bytes += disk
                .take_damaged(&self.cut, units, ReadFrom::Disk)
                .map_err(fail)?
                .iter()
                .map(len)
                .sum::<u64>();
        }
        disk.sync().map_err(fail)?;
        Ok(bytes)
    }
}

impl Store {
    /// Whether somebody has a layer open.
    pub fn is_held(&self, kept: &KeptLayer) -> bool {
        let (Some(cut), Some(layer)) = (kept.path.file_name(), kept.path.parent().and_then(Path::file_name))
        else {
            return false;
        };
        self.opened().iter().any(|(key, _)| *cut == *key.cut.to_string() && *layer == *key.diff_id.0.hex())
    }

    /// Deletes one layer's files in one cut, as [`kept`] has it, unless somebody holds the layer. Whether they are gone.
    ///
    /// # Errors
    /// The directory cannot be deleted.
    pub fn remove_kept(&self, kept: &KeptLayer) -> Result<bool, StoreError> {
        let fail = |source| StoreError { path: kept.path.clone(), what: "delete the layer", source };
        let cut = kept.path.file_name().unwrap_or_default().to_owned();
        let diff_id = kept.diff_id.0.hex().into();
        let found = usage::Kept { path: kept.path.clone(), diff_id, cut, bytes: kept.bytes };
        if kept.path.exists() {
            self.remove_closed(&found).map_err(fail)?;
        }
        Ok(!kept.path.exists())
    }
}

fn damaged(directory: &Path, cut: &Cut, large: &LargeFiles, record: &Record) -> io::Result<u64> {
    let files = Files::look(directory, large.clone())?;
    let mut bytes = 0;
    for unit in (0..cut.units()).filter(|&unit| record.has(unit)) {
        let Some(range) = cut.ranges_of(unit..unit + 1).next() else { continue };
        if !is_as_written(files.as_ref(), record, unit, &range)
            && !is_as_written(files.as_ref(), record, unit, &range)
        {
            bytes += len(&range);
        }
    }
    Ok(bytes)
}

/// Whether a unit is what was written, or has been taken away meanwhile.
fn is_as_written(files: Option<&Files>, record: &Record, unit: usize, range: &Range<u64>) -> bool {
    let read = files.map(|files| files.read(range, ReadFrom::Disk));
    match record.sums(unit..unit + 1).as_deref() {
        Ok([Some(sum)]) => matches!(read, Some(Ok(bytes)) if Sum::of(&bytes) == *sum),
        Ok(_) => true,
        Err(_) => false,
    }
}

fn strides(units: usize) -> impl Iterator<Item = Range<usize>> {
    (0..units).step_by(STRIDE).map(move |start| start..units.min(start + STRIDE))
}

fn is_aside(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "new" || extension == "damaged")
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// Nothing, where there is no such directory.
fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}
