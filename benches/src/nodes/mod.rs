//! Many nodes that start one image at once, from nothing, against one registry: what `bench-nodes` is made of.
//!
//! Every node is a network namespace with programs of its own ([`machine`]), plugged to a switch whose other end is the registry;
//! what the registry itself sends is shaped ([`site`]). Between them may be nginx as a caching tier, in a namespace of
//! its own. All of it runs on the processors of one machine: so it tells what a registry is asked for and sends, and how that
//! changes with the number of nodes; the seconds of many nodes are those of nodes that share processors.

pub mod figures;
pub mod machine;
pub mod report;
pub mod site;

pub use figures::{Figure, Start, Tier};
pub use machine::{Kind, Machine};
pub use report::Report;
pub use site::{Setup, Site};
