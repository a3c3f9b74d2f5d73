//! What the fuzz targets run, one function for each reader of bytes that strangers may have written.
//!
//! `formats/fuzz` wraps each into a libFuzzer program; an ordinary test runs each over the corpora that are
//! committed there. A target panics when a promise is broken: a reader may refuse its input, but
//! what it accepts must be sound, read back the same, and cost no more than its length allows.

mod boot;
mod cosign;
mod elf;
mod index;
pub(crate) mod layer;
#[cfg(test)]
mod seeds;
mod small;
#[cfg(test)]
mod tests;

pub use boot::boot_pack;
pub use cosign::{cosign_key, cosign_manifest};
pub use elf::elf;
pub use index::{launch_index, launch_index_packed};
pub use layer::{foreign, layer, tar, toc};
pub use small::{annotations, footer, reference, seek_table};

/// A target: takes any bytes, panics where a promise is broken.
pub type Target = fn(&[u8]);

/// All targets by the names of their programs and corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("annotations", annotations),
    ("boot_pack", boot_pack),
    ("cosign_key", cosign_key),
    ("cosign_manifest", cosign_manifest),
    ("elf", elf),
    ("footer", footer),
    ("foreign", foreign),
    ("launch_index", launch_index),
    ("launch_index_packed", launch_index_packed),
    ("layer", layer),
    ("reference", reference),
    ("seek_table", seek_table),
    ("tar", tar),
    ("toc", toc),
];
