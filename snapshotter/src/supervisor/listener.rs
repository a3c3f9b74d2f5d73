//! The socket that containerd calls: bound by the supervisor, so that it outlives any worker.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::lock::{LockError, create_directory};

/// Listens on `path`, in the place of a socket that nobody listens on any more.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(parent)?;
    }
    make_way(path)?;
    let failed = |source| ListenError::Bind { path: path.to_owned(), source };
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever may call can mount: root only. Nobody accepts before the first worker is there.
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn make_way(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Bind { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::Occupied(path.to_owned()));
        }
        Ok(_) => {}
    }
    match knock(path) {
        // A listener whose queue is full is alive, too.
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::Live(path.to_owned())),
        Err(Errno::CONNREFUSED) => {
            tracing::info!(socket = %path.display(), "replacing a socket that nobody listens on");
            fs::remove_file(path).map_err(failed)
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Connects without waiting for room in the queue.
fn knock(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers on it.
    #[error("another daemon listens on {}", .0.display())]
    Live(PathBuf),
    /// There is something else in its place.
    #[error("{} exists and is not a socket", .0.display())]
    Occupied(PathBuf),
    /// It cannot be bound.
    #[error("cannot listen on {}: {source}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its directory cannot be had.
    #[error(transparent)]
    Directory(#[from] LockError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/jaunt.sock");
        let first = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(ListenError::Live(_))));
        drop(first);
        let second = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        second.accept().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(ListenError::Occupied(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
