//! What a service manager has kept for us, by name, and what of it can be used.
//!
//! ```text
//! listener                        the socket that containerd calls
//! memory                          what workers leave to each other (super::memory)
//! mount/<key>/<minor>/<record>    a /dev/fuse: its mount's key, the number of its device, and what was agreed with the
//!                                 kernel (Negotiated::to_bytes, in hexadecimal digits)
//! in-flight/<key>/<minor>         the table of requests under way on that mount (jaunt_layerfs::fuse::in_flight)
//! ```
//!
//! So a mount's descriptor and its record cannot be parted. Names have at most 255 bytes of ASCII without `:`; ours at most 154.
//!
//! Invariant: whatever else is found is told, let go and forgotten; nothing of it is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use jaunt_layerfs::fuse::{InFlight, Negotiated, mount};

use super::memory::Memory;
use super::protocol::MountKey;
use super::service_manager::{Inherited, ServiceManager};

const LISTENER: &str = "listener";
const MEMORY: &str = "memory";
const MOUNT: &str = "mount/";
const IN_FLIGHT: &str = "in-flight/";
/// `/dev/fuse`: major and minor number of the device (Linux, admin-guide/devices.txt).
const DEVICE: (u32, u32) = (10, 229);

/// The name under which a descriptor is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeptName {
    Listener,
    Memory,
    Mount(MountName),
    InFlight(TableName),
}

/// What a mount's table of requests is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TableName {
    pub key: MountKey,
    pub minor: u32,
}

/// What a mount's descriptor is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountName {
    pub key: MountKey,
    /// Of the anonymous device that the mount table shows.
    pub minor: u32,
    pub negotiated: Negotiated,
}

/// A file system that was served before, and may be still in use.
#[derive(Debug)]
pub(super) struct KeptMount {
    pub name: MountName,
    pub device: OwnedFd,
    pub in_flight: Option<OwnedFd>,
}

/// What of all that was kept can be used.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub listener: Option<UnixListener>,
    pub memory: Option<Memory>,
    pub mounts: Vec<KeptMount>,
}

impl Kept {
    /// Looks through what was handed over. `socket` is where the listener must listen.
    pub(super) fn sort(inherited: Vec<Inherited>, socket: &Path, manager: &ServiceManager) -> Self {
        let mut kept = Self::default();
        let mut tables = BTreeMap::new();
        for Inherited { name, descriptor } in inherited {
            let refused = match KeptName::parse(&name) {
                None => Some("its name says nothing"),
                Some(KeptName::Listener) if kept.listener.is_some() => Some("there is one already"),
                Some(KeptName::Listener) => match as_listener(descriptor, socket) {
                    Ok(listener) => {
                        kept.listener = Some(listener);
                        None
                    }
                    Err(why) => Some(why),
                },
                Some(KeptName::Memory) if kept.memory.is_some() => Some("there is one already"),
                Some(KeptName::Memory) => {
                    kept.memory = Memory::from_kept(descriptor);
                    kept.memory.is_none().then_some("it is no memory of ours")
                }
                Some(KeptName::Mount(_)) if !is_fuse(&descriptor) => Some("it is no /dev/fuse"),
                Some(KeptName::Mount(_)) if !mount::is_connected(&descriptor) => {
                    tracing::info!(name, "the last user of a kept mount is gone");
                    manager.forget(&name);
                    None
                }
                Some(KeptName::Mount(name)) => {
                    kept.mounts.push(KeptMount { name, device: descriptor, in_flight: None });
                    None
                }
                Some(KeptName::InFlight(name)) => match descriptor.try_clone().and_then(InFlight::open) {
                    Ok(_) => {
                        tables.insert(name, descriptor);
                        None
                    }
                    Err(_) => Some("it is no table of requests"),
                },
            };
            if let Some(why) = refused {
                tracing::warn!(name, why, "a descriptor that the service manager kept is of no use");
                // One of that name may be in use already.
                let in_use = match name.as_str() {
                    LISTENER => kept.listener.is_some(),
                    MEMORY => kept.memory.is_some(),
                    _ => false,
                };
                if !in_use {
                    manager.forget(&name);
                }
            }
        }
        for mount in &mut kept.mounts {
            mount.in_flight = tables.remove(&mount.name.table());
        }
        tables.keys().for_each(|name| manager.forget(&name.to_string()));
        kept
    }
}

impl MountName {
    /// What its table of requests is called.
    pub(super) fn table(&self) -> TableName {
        TableName { key: self.key.clone(), minor: self.minor }
    }
}

impl KeptName {
    fn parse(name: &str) -> Option<Self> {
        if name == LISTENER {
            return Some(Self::Listener);
        }
        if name == MEMORY {
            return Some(Self::Memory);
        }
        if let Some((key, minor)) = name.strip_prefix(IN_FLIGHT).and_then(|rest| rest.split_once('/')) {
            let key = key.to_owned().try_into().ok()?;
            return Some(Self::InFlight(TableName { key, minor: minor.parse().ok()? }));
        }
        let mut parts = name.strip_prefix(MOUNT)?.split('/');
        let (key, minor, record) = (parts.next()?, parts.next()?, parts.next()?);
        let name = MountName {
            key: key.to_owned().try_into().ok()?,
            minor: minor.parse().ok()?,
            negotiated: Negotiated::from_bytes(&bytes(record)?).ok()?,
        };
        parts.next().is_none().then_some(Self::Mount(name))
    }
}

impl fmt::Display for KeptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener => f.write_str(LISTENER),
            Self::Memory => f.write_str(MEMORY),
            Self::Mount(name) => name.fmt(f),
            Self::InFlight(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for MountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MOUNT}{}/{}/", self.key, self.minor)?;
        self.negotiated.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{IN_FLIGHT}{}/{}", self.key, self.minor)
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let even = digits.len().is_multiple_of(2) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    pairs.map(byte).collect::<Option<_>>().filter(|_| even)
}

fn is_fuse(descriptor: impl AsFd) -> bool {
    let device = rustix::fs::fstat(descriptor).map(|stat| stat.st_rdev);
    device.is_ok_and(|device| (rustix::fs::major(device), rustix::fs::minor(device)) == DEVICE)
}

/// The listener, if whoever connects to `socket` reaches it.
fn as_listener(descriptor: OwnedFd, socket: &Path) -> Result<UnixListener, &'static str> {
    if !rustix::net::sockopt::socket_acceptconn(&descriptor).unwrap_or(false) {
        return Err("it does not listen");
    }
    let listener = UnixListener::from(descriptor);
    let bound = listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(socket));
    match bound && std::fs::symlink_metadata(socket).is_ok() {
        true => Ok(listener),
        false => Err("it listens elsewhere"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated() -> Negotiated {
        let mut record = [0; Negotiated::BYTES];
        (record[0], record[4]) = (1, 31);
        Negotiated::from_bytes(&record).unwrap()
    }

    #[test]
    fn names_are_read_back_and_garbage_is_not_a_name() {
        let key = MountKey::try_from("x".repeat(64)).unwrap();
        let mount = KeptName::Mount(MountName { key, minor: u32::MAX, negotiated: negotiated() });
        let table = KeptName::InFlight(TableName { key: 7.into(), minor: 3 });
        for name in [KeptName::Listener, KeptName::Memory, mount.clone(), table] {
            let text = name.to_string();
            assert!(
                text.len() <= 154 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'),
                "{text}"
            );
            assert_eq!(KeptName::parse(&text), Some(name));
        }
        let good = mount.to_string();
        let cut = &good[..good.len() - 2];
        let more = format!("{good}/x");
        let foreign = good.replace("/01", "/02");
        let bad = [
            "",
            "stored",
            "listener ",
            "memory/",
            "mount/",
            "mount/7/1/",
            "mount/7/1/zz",
            "mount/../1/00",
            cut,
            &more,
            &foreign,
        ];
        for name in bad {
            assert_eq!(KeptName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_let_go_and_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("socket"), dir.path().join("other"));
        let listener = UnixListener::bind(&path).unwrap();
        let inherited = |name: &str, descriptor: OwnedFd| Inherited { name: name.to_owned(), descriptor };
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let name = MountName { key: 7.into(), minor: 45, negotiated: negotiated() }.to_string();
        let all = vec![
            inherited("", null()),
            inherited("listener", null()),
            inherited("listener", UnixListener::bind(&other).unwrap().into()),
            inherited("listener", listener.try_clone().unwrap().into()),
            inherited("listener", listener.into()),
            inherited("memory", null()),
            inherited("memory", Memory::new().unwrap().as_fd().try_clone_to_owned().unwrap()),
            inherited(&name, null()),
            inherited("in-flight/7/45", null()),
            inherited(&name, std::fs::File::open("/dev/zero").unwrap().into()),
        ];
        let kept = Kept::sort(all, &path, &ServiceManager::default());
        assert!(kept.mounts.is_empty() && kept.memory.is_some());
        let found = kept.listener.unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        found.accept().unwrap();
    }
}
