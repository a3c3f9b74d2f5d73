//! Which requests are being answered, told to whoever serves next: for kernels that do not send them again (before Linux 6.9).
//!
//! A file in memory that outlives the process, mapped by each one that serves the mount in turn:
//!
//! ```text
//! newest u64 | slot u64 × SLOTS        in host order; a slot holds a request's number, or 0
//! ```
//!
//! The next process answers EIO to every number in a slot. A process that dies between taking a request and noting it
//! leaves a number that is in none; but the kernel gives numbers in order, so all those around the newest are answered as well. A number that is
//! not being waited for costs nothing: the kernel says ENOENT.
//!
//! Invariant: a number is noted before the file system sees the request, and goes after the reply.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use zerocopy::IntoBytes as _;

use super::abi::{OutHeader, len_of};

/// More than the readers that wait for one mount; those beyond are found only around the newest.
const SLOTS: usize = 4096;
const BYTES: usize = (SLOTS + 1) * size_of::<AtomicU64>();
/// The kernel counts requests in steps of two; the bit between marks interrupts.
const STEP: u64 = 2;
/// Numbers before and behind the newest that are answered in any case: many times what all threads of a mount take at once.
const AROUND: u64 = 2048 * STEP;
const EIO: i32 = -5;

/// The table of one mount. Clones share it.
#[derive(Clone, Debug)]
pub struct InFlight(Arc<Table>);

#[derive(Debug)]
struct Table {
    map: MmapRaw,
    /// Where the last free slot was found.
    hint: AtomicUsize,
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub struct Taken {
    table: InFlight,
    slot: Option<usize>,
}

impl InFlight {
    /// The file of an empty table; whoever holds it keeps it.
    pub fn create() -> io::Result<OwnedFd> {
        let file = rustix::fs::memfd_create("in-flight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, BYTES as u64)?;
        // Nobody can make it shorter than what is mapped.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(file)
    }

    /// The table in such a file.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        let sealed = rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK);
        if !sealed || file.metadata()?.len() != BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a table of requests"));
        }
        let map = MmapOptions::new().len(BYTES).map_raw(&file)?;
        Ok(Self(Arc::new(Table { map, hint: AtomicUsize::new(0) })))
    }

    /// Notes that request number `unique` is being answered.
    pub fn take(&self, unique: u64) -> Taken {
        let (newest, slots) = self.cells();
        newest.fetch_max(unique, Ordering::SeqCst);
        let start = self.0.hint.load(Ordering::Relaxed);
        let free = (0..SLOTS).map(|n| (start + n) % SLOTS).find(|slot| {
            slots[*slot].compare_exchange(0, unique, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        });
        self.0.hint.store(free.map_or(0, |slot| (slot + 1) % SLOTS), Ordering::Relaxed);
        Taken { table: self.clone(), slot: free }
    }

    /// Answers EIO on `device` to whatever an earlier process had taken and not answered; how many that were. Nobody else may
    /// serve it.
    pub fn fail_all(&self, device: impl AsFd) -> io::Result<usize> {
        let (newest, slots) = self.cells();
        let mut wanted: Vec<u64> =
            slots.iter().map(|slot| slot.swap(0, Ordering::SeqCst)).filter(|n| *n > 0).collect();
        let newest = newest.load(Ordering::SeqCst);
        let lowest = newest.saturating_sub(AROUND).max(STEP) / STEP * STEP;
        wanted.extend((lowest..newest.saturating_add(AROUND)).step_by(2));
        wanted.sort_unstable();
        wanted.dedup();
        let mut failed = 0;
        for unique in wanted {
            let reply = OutHeader { len: len_of::<OutHeader>(), error: EIO, unique };
            match rustix::io::retry_on_intr(|| rustix::io::write(&device, reply.as_bytes())) {
                Ok(_) => failed += 1,
                // Answered, never taken, or never asked.
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(failed)
    }

    fn cells(&self) -> (&AtomicU64, &[AtomicU64]) {
        // SAFETY: the mapping is writable, `BYTES` long, aligned to a page, and lives as long as `self`; nobody can make the file
        // shorter (it is sealed); all that is in it, in every process, is used as atomic integers alone, and any bits are one.
        let cells =
            unsafe { std::slice::from_raw_parts(self.0.map.as_mut_ptr().cast::<AtomicU64>(), SLOTS + 1) };
        (&cells[0], &cells[1..])
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.table.cells().1[slot].store(0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands for a device that waits for nothing but `waiting`: a socket tells what was written.
    fn answered(table: &InFlight) -> Vec<u64> {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut reply = [0; 16];
            while theirs.recv(&mut reply).is_ok_and(|len| len == 16) {
                assert_eq!(reply[4..8], EIO.to_ne_bytes());
                seen.push(u64::from_ne_bytes(reply[8..].try_into().unwrap()));
            }
            seen
        });
        table.fail_all(&ours).unwrap();
        ours.send(&[]).unwrap();
        reader.join().unwrap()
    }

    #[test]
    fn what_was_taken_and_not_answered_is_failed_by_the_next_process() {
        let file = InFlight::create().unwrap();
        let first = InFlight::open(file.try_clone().unwrap()).unwrap();
        let old = first.take(10);
        drop(first.take(50_000));
        let new = first.take(100_000);
        std::mem::forget((old, new));
        let second = InFlight::open(file.try_clone().unwrap()).unwrap();
        let seen = answered(&second);
        assert!(seen.contains(&10) && seen.contains(&100_000), "what slots hold");
        assert!(!seen.contains(&50_000), "what was answered long ago");
        assert!(seen.contains(&(100_000 - 2)) && seen.contains(&100_002), "what was taken and not noted");
        assert!(seen.iter().all(|unique| unique % 2 == 0), "interrupts are not waited for");
        assert!(!answered(&second).contains(&10), "once");
    }

    #[test]
    fn a_full_table_forgets_nothing_that_it_holds() {
        let table = InFlight::open(InFlight::create().unwrap()).unwrap();
        let held: Vec<Taken> = (1..=SLOTS as u64 + 1).map(|n| table.take(n * 2)).collect();
        assert_eq!(held.iter().filter(|taken| taken.slot.is_none()).count(), 1);
        drop(held);
        assert!(table.take(9).slot.is_some());
    }

    #[test]
    fn another_file_is_refused() {
        let plain = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&plain, BYTES as u64).unwrap();
        for file in [plain, File::open("/dev/null").unwrap().into()] {
            assert!(InFlight::open(file).is_err());
        }
    }
}
