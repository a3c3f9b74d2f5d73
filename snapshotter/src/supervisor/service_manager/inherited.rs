//! The descriptors that a service manager hands over at the start (sd_listen_fds(3)).
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Those before are the standard streams.
const FIRST: RawFd = 3;
/// More than any store keeps.
const MOST: RawFd = 1 << 16;

/// A descriptor, and what its keeper calls it.
#[derive(Debug)]
pub(in crate::supervisor) struct Inherited {
    pub name: String,
    pub descriptor: OwnedFd,
}

/// Takes what was handed to this process; once, later there is nothing.
pub(in crate::supervisor) fn inherited() -> Vec<Inherited> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| std::env::var(name).ok()?.parse::<RawFd>().ok();
    let ours = number("LISTEN_PID").and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|count| (1..=MOST).contains(count));
    let Some(count) = count.filter(|_| ours) else { return Vec::new() };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    let all = (FIRST..FIRST + count).zip(names);
    all.filter_map(|(number, name)| Some(Inherited { name, descriptor: take(number)? })).collect()
}

fn take(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: it is only asked whether there is such a descriptor, and the borrow ends here.
    let found = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
    if let Err(error) = found {
        tracing::warn!(number, %error, "a descriptor of the service manager's is missing");
        return None;
    }
    // SAFETY: it is open, the protocol says that it is this process's own, and nobody else has taken it: see `TAKEN`.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    if let Err(error) = fcntl_setfd(&descriptor, FdFlags::CLOEXEC) {
        tracing::warn!(number, %error, "a descriptor would be inherited by the worker");
    }
    Some(descriptor)
}
