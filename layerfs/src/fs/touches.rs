//! What a mount's readers touch, for whoever wants to know.

use std::sync::Arc;

use super::Ino;
use crate::trace::{Begun, Trace, What};

/// Tells of one mount.
pub(super) struct Touches {
    trace: Trace,
    mount: Arc<str>,
}

impl Touches {
    pub fn new(trace: &Trace, mount: &str) -> Self {
        Self { trace: trace.clone(), mount: mount.into() }
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    pub fn begin(&self) -> Option<Begun> {
        self.trace.begin()
    }

    /// A read that was begun has been answered with so many bytes.
    pub fn end(&self, begun: Option<Begun>, file: Ino, offset: u64, len: usize, missed: bool) {
        self.trace.end(begun, || What::Touch {
            mount: self.mount.clone(),
            inode: file.0,
            extent: offset..offset.saturating_add(len as u64),
            missed,
        });
    }
}
