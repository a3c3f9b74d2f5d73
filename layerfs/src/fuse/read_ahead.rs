//! How far the kernel reads ahead on a mount, which is in sysfs below the number of its device.
//!
//! Invariant: whoever holds a [`ReadAhead`] changes that one mount or, once it is gone, nothing: numbers are given anew.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::mount::{DeviceNumber, device_number};

/// KiB that are read ahead of who reads on. The kernel's own 128 make one reader wait a round trip for each 128 KiB; from 1024 on
/// it sends requests of 1 MiB, several at a time.
pub const READ_AHEAD_KIB: u32 = 1024;
/// A number and a newline.
const MAX_TEXT: usize = 32;

/// The read-ahead of one mount.
#[derive(Debug)]
pub struct ReadAhead(File);

impl ReadAhead {
    /// Of what is mounted at `point`. Asks nobody who serves it.
    ///
    /// # Errors
    /// Nothing is mounted there, or sysfs is read-only, as in some containers.
    pub fn at(point: &Path) -> io::Result<Self> {
        let number = |path: &Path| device_number(path).map_err(io::Error::other);
        let (mounted, below) = (number(point)?, point.parent().map(number).transpose()?);
        if below == Some(mounted) {
            return Err(io::Error::other("nothing is mounted there"));
        }
        Self::of(mounted)
    }

    pub(super) fn of(number: DeviceNumber) -> io::Result<Self> {
        let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", number.major, number.minor);
        OpenOptions::new().read(true).write(true).open(path).map(Self)
    }

    /// Changes it for files that are opened from now on.
    ///
    /// # Errors
    /// The mount is gone.
    pub fn set(&self, kib: u32) -> io::Result<()> {
        self.0.write_all_at(kib.to_string().as_bytes(), 0)
    }

    /// Changes it until what is returned is dropped.
    ///
    /// # Errors
    /// The mount is gone.
    pub fn narrow(self, kib: u32) -> io::Result<Narrowed> {
        let mut text = [0; MAX_TEXT];
        let len = self.0.read_at(&mut text, 0)?;
        let before = std::str::from_utf8(&text[..len]).ok().and_then(|text| text.trim().parse().ok());
        let before = before.ok_or_else(|| io::Error::other("a read-ahead that is no number"))?;
        if kib < before {
            self.set(kib)?;
        }
        Ok(Narrowed { read_ahead: self, before })
    }
}

/// Puts the read-ahead back as it was.
#[derive(Debug)]
pub struct Narrowed {
    read_ahead: ReadAhead,
    before: u32,
}

impl Drop for Narrowed {
    fn drop(&mut self) {
        // A mount that is gone reads nothing.
        let _ = self.read_ahead.set(self.before);
    }
}
