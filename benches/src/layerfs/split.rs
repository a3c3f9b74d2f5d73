//! The same files as an image of one layer, and as one of many.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use jaunt_formats::{DiffId, Digest};
use jaunt_tests::error::{At as _, Result};
use jaunt_tests::image::{BuiltImage, BuiltLayer};
use jaunt_tests::process::run;
use jaunt_tests::{Registry, Scratch};

/// What of a tree stays together in one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A file.
    #[default]
    File,
    /// The files of a directory, as builds of images have them.
    Directory,
}

/// The image of `layers` layers that shows what lies below `root`, pushed as `name`. It runs nothing.
pub fn push(
    (scratch, registry): (&Scratch, &Registry),
    root: &Path,
    (layers, by): (u64, By),
    name: &str,
) -> Result<()> {
    let layers = cut(scratch, root, layers, by)?;
    BuiltImage { layers, command: vec!["/bin/true".to_owned()] }.push(registry, name, "latest")?;
    Ok(())
}

/// What lies below `root`, in as many layers. The lowest has the directories; every other file is in one that chance
/// chose, alone or with its directory's.
pub fn cut(scratch: &Scratch, root: &Path, layers: u64, by: By) -> Result<Vec<BuiltLayer>> {
    let mut lists: BTreeMap<u64, Vec<u8>> = (0..layers).map(|layer| (layer, Vec::new())).collect();
    sort_into(&mut lists, root, Path::new("."), by)?;
    lists.into_values().map(|list| layer(scratch, root, &list)).collect()
}

/// Parents before children; names of one file in one layer.
fn sort_into(lists: &mut BTreeMap<u64, Vec<u8>>, root: &Path, dir: &Path, by: By) -> Result<()> {
    let own = fs::symlink_metadata(root.join(dir)).at(dir)?.ino();
    let mut entries: Vec<_> = fs::read_dir(root.join(dir)).at(dir)?.collect::<Result<_, _>>().at(dir)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = dir.join(entry.file_name());
        let stat = entry.metadata().at(&path)?;
        // A file of several names may have them in several directories.
        let together = if by == By::Directory && stat.nlink() == 1 { own } else { stat.ino() };
        let at = if stat.is_dir() { 0 } else { together.wrapping_mul(0x9e37_79b9) >> 8 };
        let at = at % lists.len() as u64;
        let list = lists.entry(at).or_default();
        list.extend_from_slice(path.as_os_str().as_bytes());
        list.push(0);
        if stat.is_dir() {
            sort_into(lists, root, &path, by)?;
        }
    }
    Ok(())
}

fn layer(scratch: &Scratch, root: &Path, list: &[u8]) -> Result<BuiltLayer> {
    let (names, tar) = (scratch.path().join("names"), scratch.path().join("tar"));
    fs::write(&names, list).at(&names)?;
    let mut command = Command::new("tar");
    command.args(["--format=pax", "--pax-option=delete=atime,delete=ctime", "--numeric-owner"]);
    command.args(["--no-recursion", "--null", "-cf"]).arg(&tar).arg("-C").arg(root).arg("-T").arg(&names);
    run(&mut command)?;
    let bytes = fs::read(&tar).at(&tar)?;
    let diff_id = DiffId(Digest::of(&bytes));
    fs::remove_file(&tar).at(&tar)?;
    Ok(BuiltLayer { media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(), bytes, diff_id })
}
