//! Large buffers that cost only what of them is used.
//!
//! Each thread of a session has a buffer of 16 MiB for requests, of which a read-only file system uses a page. The C
//! library gives it as untouched pages as long as it maps large blocks by themselves; but it stops doing so once one was
//! freed, and then clears all of it. With hundreds of mounts that was 11 MB of private memory for each.

/// From here on a block is mapped by itself: above what spans and requests to registries take, and below the buffers.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const APART: libc::c_int = 8 << 20;
/// So much free memory is kept for the next span instead of being given back and asked for again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 16 << 20;

/// Has the process treat them so, lastingly. For programs that serve, before their first mount.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn spare_buffers() {
    // SAFETY: mallopt takes two numbers, locks what it changes, and is told before there is much to change.
    let done = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, APART) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT) == 1
    };
    if !done {
        tracing::warn!("the C library does not take its settings: mounts take more memory than they should");
    }
}

/// Other C libraries map large blocks by themselves as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn spare_buffers() {}
