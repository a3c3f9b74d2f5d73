//! Memory for workers that outlives them: a file without a name or a disk (memfd). Where a service manager keeps
//! descriptors, it outlives supervisors as well.
//!
//! Invariant: its size never changes, and it cannot be sealed any further: no worker can take it from the next one. What is
//! in it is the workers' affair.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};

/// Environment variable that names the file by which a worker opens its memory.
const MEMORY: &str = "JAUNT_MEMORY";

/// The memory, as the supervisor holds it: closed to everything that is started but for who is told where it is.
#[derive(Debug)]
pub struct Memory(OwnedFd);

impl Memory {
    /// Its size. What is never written takes no room.
    pub const BYTES: u64 = 2 << 20;

    const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

    /// Takes memory; it is all zeros.
    pub fn new() -> io::Result<Self> {
        let memory = memfd_create("jaunt-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memory, Self::BYTES)?;
        fcntl_add_seals(&memory, Self::SEALS)?;
        Ok(Self(memory))
    }

    /// Takes up what an earlier supervisor had; nothing, where this is something else.
    pub(super) fn from_kept(descriptor: OwnedFd) -> Option<Self> {
        // Only such files have seals. Where vm.memfd_noexec is set, the kernel adds one.
        let sealed = fcntl_get_seals(&descriptor).is_ok_and(|seals| seals.contains(Self::SEALS));
        let whole = fstat(&descriptor).is_ok_and(|stat| u64::try_from(stat.st_size) == Ok(Self::BYTES));
        (sealed && whole).then_some(Self(descriptor))
    }

    /// By what a child of this process opens it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// How a worker is told.
    pub(super) fn variable(&self) -> (&'static str, PathBuf) {
        (MEMORY, self.path())
    }

    /// Where a worker has been told that its memory is.
    pub(super) fn from_env() -> Option<PathBuf> {
        std::env::var_os(MEMORY).map(PathBuf::from)
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn it_is_written_but_not_resized_and_known_again() {
        let memory = Memory::new().unwrap();
        let file = OpenOptions::new().read(true).write(true).open(memory.path()).unwrap();
        file.write_all_at(b"kept", Memory::BYTES - 4).unwrap();
        assert!(file.write_all_at(b"more", Memory::BYTES).is_err() && file.set_len(0).is_err());
        let again = Memory::from_kept(memory.0.try_clone().unwrap()).unwrap();
        let mut bytes = [0; 4];
        File::open(again.path()).unwrap().read_exact_at(&mut bytes, Memory::BYTES - 4).unwrap();
        assert_eq!(&bytes, b"kept");
    }

    #[test]
    fn it_is_known_again_where_the_kernel_seals_its_mode_as_well() {
        // What vm.memfd_noexec asks for on behalf of everybody.
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
        let memory = match memfd_create("x", flags) {
            Err(error) => return println!("skipped: {}: {error}", module_path!()),
            Ok(memory) => memory,
        };
        ftruncate(&memory, Memory::BYTES).unwrap();
        fcntl_add_seals(&memory, Memory::SEALS).unwrap();
        assert_ne!(fcntl_get_seals(&memory).unwrap(), Memory::SEALS);
        assert!(Memory::from_kept(memory).is_some());
    }

    #[test]
    fn anything_else_is_not_taken_for_it() {
        let unsealed = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, Memory::BYTES).unwrap();
        let small = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        fcntl_add_seals(&small, Memory::SEALS).unwrap();
        let null = File::open("/dev/null").unwrap().into();
        for other in [unsealed, small, null] {
            assert!(Memory::from_kept(other).is_none());
        }
    }
}
