//! Chains whose files are read past the page cache (`O_DIRECT`), as databases do.
//!
//! Linux refuses that on an EROFS over files, so such a chain is served by FUSE, complete or not: that of a repository which the
//! configuration names, and one of which a file has been read so. The second is noted in `<root>/erofs/<index>-<layers>.direct`, which
//! goes with the last snapshot of the chain.

use jaunt_formats::Digest;

use super::{Mounts, Served};
use crate::config::RepositoryPrefix;
use crate::lazy::LazyChain;

const NOTE: &str = "direct";

impl Mounts {
    /// Serves images of these repositories from now on, complete or not.
    pub fn serve_always(&self, repositories: Vec<RepositoryPrefix>) {
        let _ = self.served_always.set(repositories);
    }

    /// Whether a chain is to be served by this process, though the kernel could read it by itself.
    pub(super) fn is_served_always(&self, chain: &LazyChain) -> bool {
        let listed = self.served_always.get().filter(|listed| !listed.is_empty());
        let is_listed = listed.is_some_and(|listed| {
            let sources = self.catalog.sources(&chain.index);
            sources.iter().any(|source| listed.iter().any(|prefix| prefix.includes(source)))
        });
        is_listed || self.direct_note(&chain.index, chain.prefix).exists()
    }

    /// Notes what is found of a chain that this process serves.
    pub(super) fn note_direct_reads(&self, served: &Served, index: &Digest) {
        let note = self.direct_note(index, served.fs.prefix());
        if !served.fs.is_read_directly() || note.exists() {
            return;
        }
        let name = served.fs.name();
        let noted = std::fs::create_dir_all(&self.image_dir).and_then(|()| std::fs::write(&note, b""));
        match noted {
            Ok(()) => tracing::info!(image = name, "read with O_DIRECT: FUSE serves it, complete or not"),
            Err(error) => tracing::warn!(image = name, %error, "read with O_DIRECT, which cannot be noted"),
        }
    }

    fn direct_note(&self, index: &Digest, prefix: u16) -> std::path::PathBuf {
        self.image(index, prefix).with_extension(NOTE)
    }
}
