//! Layers whose converted blob turned out not to be what the index says.
//!
//! Nothing that came from such a blob is kept or given any more, in this process and any later one. What is known to
//! come from elsewhere, the original layer, can be kept in its place: once `<cut>/cleared` says that nothing of the
//! blob is left, for a power cut may bring back what was disclaimed.

use std::io;
use std::sync::{Arc, PoisonError};

use super::layer_file::LayerFile;
use super::on_disk::OnDisk;
use super::{StoreError, disk};
use crate::verify::TarBytes;

const CLEARED: &str = "cleared";

/// Why bytes of a converted blob are not kept, though the disk would.
#[derive(Debug, thiserror::Error)]
#[error("the converted blob is in quarantine")]
pub(super) struct InQuarantine;

/// Whether bytes were not kept because their blob is in quarantine.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<InQuarantine>())
}

impl LayerFile {
    /// Why nothing of the layer's converted blob is believed, if it is not.
    pub fn quarantined(&self) -> Option<Arc<str>> {
        self.condemned.get().cloned()
    }

    /// Believes nothing of the converted blob any more, and takes away what there is of it.
    ///
    /// # Errors
    /// The disk does not make it last, or does not let all of it be taken away. Readers find nothing of it, all the same.
    pub fn quarantine(&self, why: &str) -> Result<(), StoreError> {
        let fail = |source| StoreError {
            path: self.directory.clone(),
            what: "put the layer into quarantine",
            source,
        };
        let noted = self.shared.verdicts.note(&self.verdict, why);
        let dropped = self.disk().map_or(Ok(()), |disk| self.drop_all(disk, why));
        self.condemned.get_or_init(|| why.into());
        self.shared.spoilt.send_modify(|count| *count += 1);
        noted.and(dropped).map_err(fail)
    }

    /// Keeps bytes that do not come from the converted blob, as [`keep`](Self::keep) does others.
    ///
    /// # Errors
    /// As for [`keep`](Self::keep).
    pub fn keep_original(&self, bytes: &TarBytes) -> io::Result<()> {
        self.keep_from(bytes, false)
    }

    /// Files that were just opened, with nothing left in them of a blob that is in quarantine.
    pub(super) fn cleared(&self, disk: OnDisk) -> io::Result<OnDisk> {
        if let Some(why) = self.condemned.get()
            && !disk.directory.join(CLEARED).exists()
        {
            self.drop_all(&disk, why)?;
        }
        Ok(disk)
    }

    /// Who keeps bytes of the converted blob finds out, behind the gate, that he is too late; who is told that it is in
    /// quarantine finds nothing of it.
    fn drop_all(&self, disk: &OnDisk, why: &str) -> io::Result<()> {
        let _changing = disk.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let unmarked = disk.unmark();
        let _gate = disk.gate.write().unwrap_or_else(PoisonError::into_inner);
        let disclaimed = disk.record.disclaim(0..self.cut.units());
        self.condemned.get_or_init(|| why.into());
        disclaimed?;
        for large in self.large.ranges() {
            disk.files.remove(large)?;
        }
        // Not punched: the kernel may have it mounted.
        disk.files.renew_packed()?;
        unmarked?;
        disk.sync()?;
        disk::replace(&disk.directory.join(CLEARED), b"")?;
        disk::sync_dir(&disk.directory)
    }
}
