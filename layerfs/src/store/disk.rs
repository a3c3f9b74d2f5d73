//! The calls whose order decides what a power cut leaves. Tests listen to them.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes a file's bytes last.
pub(super) fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    note(Event::Synced, path);
    Ok(())
}

/// Makes a directory's names last.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    note(Event::Synced, path);
    Ok(())
}

/// Writes a file under another name, then puts it in its place; lasting once the directory is synced.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    sync_file(&File::open(&new)?, &new)?;
    std::fs::rename(&new, path)?;
    note(Event::Changed, path);
    Ok(())
}

/// Removes a file that may not be there; lasting once the directory is synced.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            note(Event::Changed, path);
            Ok(())
        }
    }
}

/// What a listener is told of, after it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The file's bytes, or the directory's names, are lasting.
    Synced,
    /// Bytes or a name have changed.
    Changed,
}

#[cfg(not(test))]
pub(super) fn note(_: Event, _: &Path) {}

#[cfg(test)]
pub(super) use tests::note;

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;

    use super::*;

    type Listener = Box<dyn FnMut(Event, &Path)>;

    thread_local! {
        static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
    }

    /// Has every event of this thread told to `listener`.
    pub(in crate::store) fn listen(listener: Option<Listener>) {
        LISTENER.with_borrow_mut(|place| *place = listener);
    }

    pub(in crate::store) fn note(event: Event, path: &Path) {
        LISTENER.with_borrow_mut(|listener| {
            if let Some(listener) = listener {
                listener(event, path);
            }
        });
    }
}
