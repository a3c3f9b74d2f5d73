//! Registry logins that reach this node with CRI's PullImage.
//!
//! The kubelet gives a login to who pulls, and to nobody else. So it is pointed at a socket of ours for images
//! ([`cri`]), from where all it asks goes on to containerd unchanged, and the logins are kept for what is read later. They lie in
//! memory: in this process, and in memory that the supervisor holds for the worker that follows it ([`kept`]). Never on disk,
//! never in a log.

mod cri;
mod kept;

pub use cri::{Announce, CriError, keep_serving};
pub use kept::KeptLogins;
