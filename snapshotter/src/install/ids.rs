//! Whether a machine maps ids, so that pods in user namespaces can be lazy.
//!
//! A container's lower directories are of two file systems. That of the state directory is tried. A lazy chain's is there only
//! when it is served: for that, the kernel's release tells.

use std::path::Path;

use super::InstallError;
use super::host::Host;
use crate::fallback::error_chain;
use crate::kernel;
use crate::mapped::try_to_map;

/// Whether ids can be mapped on the machine; notes why not, where it is not for the age of its kernel.
pub(super) fn are_mapped(host: &Host, root: &Path, notes: &mut Vec<String>) -> Result<bool, InstallError> {
    if !kernel::is_at_least(&kernel::release(), kernel::MAPPED_FUSE) {
        return Ok(false);
    }
    let place = host.at(root)?;
    // The daemon makes it, in the file system that it will be in.
    let there = place.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let tried = try_to_map(there);
    if let Err(error) = &tried {
        notes.push(format!(
            "images of pods in user namespaces will be copied, not lazy, and remap-ids is not listed: {}",
            error_chain(error)
        ));
    }
    Ok(tried.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(host: &Host, root: &str) -> (bool, Vec<String>) {
        let mut notes = Vec::new();
        (are_mapped(host, Path::new(root), &mut notes).unwrap(), notes)
    }

    #[test]
    fn ids_are_mapped_where_the_state_directorys_file_system_can() {
        if !kernel::is_at_least(&kernel::release(), kernel::MAPPED_FUSE) {
            return println!("skipped: {}: this kernel maps no ids of lazy images", module_path!());
        }
        // What no kernel shows with other ids.
        let (can, notes) = said(&Host::new(Path::new("/")), "/proc/self/not/there");
        assert!(!can && notes.len() == 1, "{notes:?}");
        assert!(notes[0].contains("cannot map the ids of /proc/") || notes[0].contains("user namespace"));

        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        let (can, notes) = said(&host, "/var/lib/jaunt");
        let tried = try_to_map(dir.path());
        assert_eq!((can, notes.len()), (tried.is_ok(), usize::from(tried.is_err())), "{notes:?}");
        assert!(!dir.path().join("var").exists(), "it is only looked at");
    }
}
