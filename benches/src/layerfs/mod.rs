//! What the file system costs beside ext4 below overlayfs: what `bench-layerfs` is made of.
//!
//! Warm rows and rows with a cold page cache run against a daemon and a containerd, as containers would
//! ([`roots`], [`paired`]); what has to be taken apart to be compared, the network and a single mount, runs
//! in this process on the library ([`network`], [`chain`]). Both are done to one layer and to many as well ([`many`]).
//! Everything that is compared is measured in turn, in the same rounds, and the ratios are taken round by round.

pub mod chain;
pub mod figure;
pub mod many;
pub mod memory;
pub mod network;
pub mod paired;
pub mod roots;
pub mod served;
pub mod split;
pub mod work;

pub use figure::{Bar, Figure, Report};
