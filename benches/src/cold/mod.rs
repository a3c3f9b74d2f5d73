//! Starts, from the pull command until the program is ready: what `bench-cold` is made of.
//!
//! Every system is measured by the same commands: PullImage through CRI ([`cri`]), `ctr run`, and the same
//! question whether the container is ready ([`ready`]). They differ in what is below containerd ([`bench`]): its own
//! overlayfs, a snapshotter that does nothing ([`null`]), or Jaunt, without a boot pack, with the one of the conversion and with a learnt one ([`training`]). All take turns in every round, and what is set in
//! relation is of the same round.

pub mod bench;
pub mod chart;
pub mod cost;
pub mod cri;
pub mod figures;
pub mod line;
pub mod machine;
pub mod null;
pub mod others;
pub mod pad;
pub mod ready;
pub mod report;
pub mod subject;
pub mod svg;
pub mod system;
pub mod touched;
pub mod trace;
pub mod training;
pub mod waterfall;

pub use bench::{Bench, Start};
pub use figures::Figure;
pub use line::Line;
pub use machine::Machine;
pub use report::Report;
pub use subject::{Case, Variant, Workshop};
pub use system::{Below, System};
