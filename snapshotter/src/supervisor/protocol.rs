//! What supervisor and worker say to each other, and how it is put on the socket between them.
//!
//! A `SOCK_SEQPACKET` pair, made for each worker. The worker asks, the supervisor answers: one JSON
//! object a packet, at most [`MAX_MESSAGE`] bytes, with descriptors beside it (`SCM_RIGHTS`) where a
//! reply carries some:
//!
//! ```text
//! {"op":"hello","version":6}      -> {"reply":"hello","mounts":2}           + listener, root lock, run lock
//! {"op":"next","after":"17"}      -> {"reply":"mount", key, path, …}        + /dev/fuse, table   or {"reply":"end"}
//! {"op":"mount","key":"18",
//!  "needs":{…}}                   -> {"reply":"mount", key, path, …}        + /dev/fuse
//! {"op":"attach","key":"18-c"}    -> {"reply":"mount", key, path, …}        with the request: a detached mount
//! {"op":"unmount","key":"18"}     -> {"reply":"unmounted","outcome":"done"}
//! {"op":"serving"}                -> {"reply":"noted"}                       once it serves, and every few seconds from then on
//! {"op":"unfit","why":"…"}        -> {"reply":"noted"}                       it cannot serve, nor will the next one
//! (table: of requests under way, where the kernel does not send them again: `jaunt_layerfs::fuse::in_flight`)
//! anything that went wrong        -> {"reply":"error","message":"…"}
//! ```
//!
//! Invariant: whatever arrives from a worker is an error reply at worst. Descriptors it sends are closed
//! by the kernel, because nobody makes room for them.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::retry_on_intr;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of this protocol. Both ends come from one binary; a worker of another one is sent away.
pub(super) const VERSION: u32 = 6;
/// The longest message: a path (4096 at most) with its escapes is by far the longest part.
pub(super) const MAX_MESSAGE: usize = 16 * 1024;
/// The most descriptors in a message: those of `hello`.
const MAX_DESCRIPTORS: usize = 3;

/// What a worker asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Opens the conversation.
    Hello { version: u32 },
    /// The held mount whose key follows `after`, or the first one.
    Next { after: Option<MountKey> },
    /// A new mount.
    Mount { key: MountKey, needs: MountNeeds },
    /// A place for a mount that the worker has made, and that nobody needs to serve.
    Attach { key: MountKey },
    /// The end of one.
    Unmount { key: MountKey },
    /// The worker serves: all mounts, and the socket.
    Serving,
    /// The worker cannot serve, for a reason that does not go away by itself.
    Unfit { why: String },
}

/// What a mount is to do besides the usual; each costs requests, see [`jaunt_layerfs::fuse::MountOptions`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountNeeds {
    /// Enforce access lists.
    pub posix_acl: bool,
    /// Hand large files to the kernel.
    pub passthrough: bool,
}

/// What the supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(super) enum Reply {
    /// Comes with the listener and the locks.
    Hello { mounts: usize },
    /// Comes with the device.
    Mount(MountRecord),
    /// There is no further mount.
    End,
    /// What became of a mount.
    Unmounted { outcome: Unmounted },
    /// Nothing comes of it that the worker needs to know.
    Noted,
    /// It could not be done.
    Error { message: String },
}

/// A mount, but for its descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MountRecord {
    pub key: MountKey,
    pub path: PathBuf,
    /// [`jaunt_layerfs::fuse::Negotiated::to_bytes`]; none of a mount that the kernel reads by itself.
    pub negotiated: Option<Vec<u8>>,
    /// Whether `path` still leads to it.
    pub attached: bool,
}

/// What became of a mount that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmounted {
    /// It is over, or never was.
    Done,
    /// Its path is gone, but something stacked on it (an overlayfs, another namespace) still reads from
    /// it. Keep serving: the session ends by itself with the last user, and so does the supervisor's hold.
    Lingers,
    /// Somebody has something open below its path. Nothing has changed.
    Busy,
}

/// Names a mount, and the directory below `<run-dir>/mnt` that it is mounted on.
///
/// At most 64 of ASCII letters, digits, `-`, `_` and `.`, the first one not a dot: never a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountKey(String);

impl MountKey {
    const MAX: usize = 64;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MountKey {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = !text.is_empty() && text.len() <= Self::MAX && !text.starts_with('.');
        if fits && text.bytes().all(allowed) { Ok(Self(text)) } else { Err(InvalidKey) }
    }
}

impl From<u64> for MountKey {
    fn from(id: u64) -> Self {
        Self(id.to_string())
    }
}

impl From<MountKey> for String {
    fn from(key: MountKey) -> Self {
        key.0
    }
}

impl fmt::Display for MountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that cannot name a mount.
#[derive(Debug, thiserror::Error)]
#[error("a mount's key is 1 to 64 letters, digits, '-', '_' or '.', and does not begin with a dot")]
pub struct InvalidKey;

/// Puts one message on the socket. With `DONTWAIT` in `flags`, a full socket is `WouldBlock`.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::other(format!("a message of {} bytes is too long", bytes.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for a message"));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    let _ = retry_on_intr(|| rustix::net::sendmsg(socket, &[io::IoSlice::new(&bytes)], &mut control, flags))?;
    Ok(())
}

/// Takes one message off the socket, with its descriptors; `None` when the other end has closed.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [io::IoSliceMut::new(&mut bytes)], &mut control, flags)
    })?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn keys_are_names_and_nothing_else() {
        for good in ["17", "a.b-c_D", &"x".repeat(64)] {
            assert!(MountKey::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a/b", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert!(MountKey::try_from(bad.to_owned()).is_err(), "{bad:?}");
            let json = serde_json::json!({"op": "mount", "key": bad, "needs": {"posix_acl": false, "passthrough": false}}).to_string();
            assert!(serde_json::from_str::<Request>(&json).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (a, b) = pair();
        let reply = Reply::Hello { mounts: 3 };
        send(a.as_fd(), &reply, &[a.as_fd(), b.as_fd()], SendFlags::empty()).unwrap();
        let (reply, descriptors) = receive::<Reply>(&b, RecvFlags::empty()).unwrap().unwrap();
        assert!(matches!(reply, Reply::Hello { mounts: 3 }));
        assert_eq!(descriptors.len(), 2);
    }

    #[test]
    fn garbage_is_an_error_and_silence_an_end() {
        let (a, b) = pair();
        for garbage in [&b"{"[..], b"\xff", b"{\"op\":\"next\",\"x\":1}", &[b'['; MAX_MESSAGE + 1]] {
            rustix::net::send(&a, garbage, SendFlags::empty()).unwrap();
            assert!(receive::<Request>(&b, RecvFlags::empty()).is_err());
        }
        drop(a);
        assert!(receive::<Request>(&b, RecvFlags::empty()).unwrap().is_none());
    }
}
