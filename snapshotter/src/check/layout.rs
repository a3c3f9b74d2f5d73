//! Where the parts of the state are.

use std::io;
use std::path::{Path, PathBuf};

use jaunt_formats::Digest;

/// In the names of what was moved aside; a number follows.
pub(super) const ASIDE: &str = ".aside-";

/// Of one daemon.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub root: PathBuf,
    pub run_dir: PathBuf,
}

impl Layout {
    pub fn database(&self) -> PathBuf {
        self.root.join("meta.redb")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub fn indexes(&self) -> PathBuf {
        self.root.join("index")
    }

    pub fn index(&self, index: &Digest) -> PathBuf {
        self.indexes().join(index.hex())
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("erofs")
    }

    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn mounts(&self) -> PathBuf {
        self.run_dir.join("mnt")
    }

    pub fn backing(&self) -> PathBuf {
        self.run_dir.join("backing")
    }
}

/// What is in a directory, sorted; nothing, where there is no such directory.
pub(super) fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// A path's last part, as text.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
