//! The locks and atomics of code that is also run under a scheduler that tries interleavings: it takes them from its parent
//! module, which is another one there.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, RwLock};
