//! One node under load: many calls to the snapshotter at once ([`calls`]), many containers of one image at once
//! ([`containers`]). What `bench-node` is made of.

pub mod calls;
pub mod containers;
pub mod report;
pub mod spread;

pub use calls::Crowd;
pub use containers::Containers;
pub use report::Report;
pub use spread::Spread;
