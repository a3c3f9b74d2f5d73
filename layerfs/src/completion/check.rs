//! Whole layers against their diffIDs, and a tree against the tars that it was made of, out of local bytes.
//!
//! A tar is read in pieces, so that its size does not matter. The tree is built of the headers alone; it takes memory
//! by the number of entries, for as long as it is compared.

use std::cell::Cell;
use std::ops::Range;

use jaunt_formats::launch::{self, LaunchIndex, LaunchLayer};
use jaunt_formats::tar::{Event, Scanner};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{Digest, Entry};
use sha2::{Digest as _, Sha256};

use super::tar::Tar;
use crate::boot::NotLocal;
use crate::fs::LayerFs;
use crate::store::LayerFile;

/// Bytes that are read at a time: whole units of the store.
const PIECE: u64 = 1 << 20;
/// Bytes that are read at a time for headers: those of some small files, and little of a large one's content.
const HEADERS: u64 = 64 << 10;
/// Differences that are named.
const NAMED: usize = 5;

/// Why something was not found to be right.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody wants to know any more.
    Stopped,
    /// A part of it is not here, or not any more.
    Missing,
    /// It is not what it must be, in words.
    Differs(String),
}

/// Whether the local bytes of a layer hash to its diffID.
pub(super) fn tar(file: &LayerFile, layer: &LaunchLayer, go_on: &dyn Fn() -> bool) -> Result<(), Fault> {
    let (mut hash, tar) = (Sha256::new(), Tar::open(file, layer).ok_or(Fault::Missing)?);
    for piece in tar.parts().into_iter().flat_map(pieces) {
        if !go_on() {
            return Err(Fault::Stopped);
        }
        hash.update(tar.read(&piece).ok_or(Fault::Missing)?);
    }
    let found = Digest::from_bytes(hash.finalize().into());
    if found == layer.diff_id.0 {
        return Ok(());
    }
    let (blob, expected) = (layer.converted.digest, layer.diff_id);
    Err(Fault::Differs(format!("blob {blob} decodes to a tar with digest {found} instead of {expected}")))
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range
        .step_by(usize::try_from(PIECE).unwrap_or(usize::MAX))
        .map(move |start| start..end.min(start + PIECE))
}

/// Whether the tree of a chain is that of its layers' tars, which have been found to be those of their diffIDs.
pub(super) fn tree(fs: &LayerFs, go_on: &dyn Fn() -> bool) -> Result<(), Fault> {
    let (index, prefix) = (fs.index(), fs.prefix());
    let unusable =
        |error: &dyn std::fmt::Display| Fault::Differs(format!("no tree can be built of the tars: {error}"));
    let mut tree = TreeBuilder::new();
    for layer in fs.layers() {
        let entries = entries(layer.file(), layer.launch(), go_on)?;
        tree.push_layer(entries).map_err(|error| unusable(&error))?;
    }
    let layers = &index.layers()[..usize::from(prefix)];
    let rebuilt = launch::write(layers, tree.finish()).and_then(LaunchIndex::open);
    let rebuilt = rebuilt.map_err(|error| unusable(&error))?;
    let (mut named, mut count) = (Vec::new(), 0_usize);
    let compared = launch::compare(&rebuilt, index, prefix, &mut |difference| {
        count += 1;
        if named.len() < NAMED {
            named.push(difference.to_string());
        }
    });
    compared.map_err(|error| Fault::Differs(format!("the index is malformed: {error}")))?;
    if count == 0 {
        return Ok(());
    }
    let more = count - named.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(Fault::Differs(format!("in the tars, and in the index: {}{more}", named.join("; "))))
}

/// Whether what a chain's boot pack brought is what its layers have.
pub(super) fn pack(fs: &LayerFs, go_on: &dyn Fn() -> bool) -> Result<(), Fault> {
    let Some(boot) = fs.boot() else { return Ok(()) };
    for (number, layer) in (0..fs.prefix()).zip(fs.layers()) {
        let (launch, stopped) = (layer.launch(), Cell::new(false));
        let tar = Tar::open(layer.file(), launch).ok_or(Fault::Missing)?;
        let right = |part: &Range<u64>| {
            stopped.set(!go_on());
            if stopped.get() { None } else { tar.read(part) }
        };
        match boot.differs(number, right) {
            Ok(None) => {}
            Ok(Some(part)) => {
                let (start, end, diff_id) = (part.start, part.end, launch.diff_id);
                return Err(Fault::Differs(format!("bytes {start} to {end} of layer {diff_id} are others")));
            }
            Err(NotLocal) if stopped.get() => return Err(Fault::Stopped),
            Err(NotLocal) => return Err(Fault::Missing),
        }
    }
    Ok(())
}

/// The entries of a layer, out of its tar's headers.
fn entries(file: &LayerFile, layer: &LaunchLayer, go_on: &dyn Fn() -> bool) -> Result<Vec<Entry>, Fault> {
    let (mut scanner, mut entries) = (Scanner::new(), Vec::new());
    let tar = Tar::open(file, layer).ok_or(Fault::Missing)?;
    let malformed =
        |error| Fault::Differs(format!("the tar of layer {} is malformed: {error}", layer.diff_id));
    loop {
        let at = scanner.offset().0;
        if at >= layer.tar_len {
            break;
        }
        if !go_on() {
            return Err(Fault::Stopped);
        }
        let piece = tar.read(&(at..layer.tar_len.min(at + HEADERS))).ok_or(Fault::Missing)?;
        let pushed = scanner.push(&piece, &mut |event| {
            if let Event::Member(member) = event {
                entries.push(member.entry);
            }
        });
        pushed.map_err(malformed)?;
        scanner.skip_content();
    }
    scanner.finish().map_err(malformed)?;
    Ok(entries)
}
