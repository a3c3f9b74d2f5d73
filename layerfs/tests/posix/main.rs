//! What programs see of a mounted image: that it is what a local disk would show.
//!
//! Each test looks at the FUSE mount itself and at an overlayfs on it, which is what containers have. doc/SEMANTICS.md
//! has the promises; the tests here quote them.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod attributes;
mod changes;
mod complete;
mod directories;
mod erofs;
mod exec;
mod fixture;
mod fsck;
mod handles;
mod idmap;
mod locks;
mod mounted;
mod operations;
mod orphan;
mod passthrough;
mod pushing;
mod reading;
mod special;
mod varied;
mod waiting;
mod xattrs;
