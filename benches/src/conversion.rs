//! What converting an image costs: once per image, on the registry's side.

use std::collections::BTreeMap;
use std::process::Stdio;

use jaunt_tests::error::{Error, Result};
use jaunt_tests::usage::measure;
use jaunt_tests::{Binaries, Registry, Scratch, Usage};
use serde::Serialize;
use serde_json::Value;

/// What a conversion made of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// The original compressed layers.
    pub original_bytes: u64,
    /// The converted layers.
    pub converted_bytes: u64,
    /// Their tars.
    pub tar_bytes: u64,
    /// The launch index as it is pushed and fetched.
    pub index_bytes: u64,
    /// Entries of all layers.
    pub entries: u64,
}

/// The figures of one conversion.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    /// Of the converter alone.
    pub usage: Usage,
    /// Of the registry meanwhile.
    pub registry_cpu_s: f64,
    /// What came out.
    pub sizes: Sizes,
}

impl Conversion {
    /// Runs `jaunt-proxy convert` on an image with nothing converted yet, and measures it.
    pub fn run(
        scratch: &Scratch,
        binaries: &Binaries,
        registry: &Registry,
        reference: &str,
        level: Option<u8>,
    ) -> Result<Self> {
        let mut command = binaries.proxy(scratch, &["convert", "--json", "--plain-http", &registry.host()]);
        if let Some(level) = level {
            command.args(["--level", &level.to_string()]);
        }
        let before = registry.cpu_seconds()?;
        let (said, usage) = measure(command.arg(reference), Stdio::piped())?;
        let registry_cpu_s = registry.cpu_seconds()? - before;
        let sizes =
            Sizes::read(&said).ok_or_else(|| Error::unexpected("jaunt-proxy convert --json", &said))?;
        Ok(Self { usage, registry_cpu_s, sizes })
    }
}

impl Sizes {
    /// From what `convert --json` says of one image that it converted from nothing.
    fn read(said: &str) -> Option<Self> {
        let report: Value = serde_json::from_str(said).ok()?;
        let [image] = report["images"].as_array()?.as_slice() else { return None };
        // An image may have a layer twice; it is converted once.
        let layers: BTreeMap<_, _> =
            image["layers"].as_array()?.iter().map(|layer| (layer["original"].as_str(), layer)).collect();
        let total = |key: &str| layers.values().map(|layer| layer[key].as_u64()).sum::<Option<u64>>();
        let sizes = Self {
            original_bytes: report["original_bytes"].as_u64()?,
            converted_bytes: report["converted_bytes"].as_u64()?,
            tar_bytes: report["tar_bytes"].as_u64()?,
            index_bytes: image["index"]["bytes"].as_u64()?,
            entries: total("entries")?,
        };
        // What was taken over from an earlier run is not in the totals.
        (total("original_bytes")? == sizes.original_bytes && sizes.entries > 0).then_some(sizes)
    }

    /// Converted layers in relation to the original ones.
    pub fn ratio(&self) -> f64 {
        self.converted_bytes as f64 / self.original_bytes as f64
    }

    /// What an entry takes in the launch index.
    pub fn index_bytes_per_entry(&self) -> f64 {
        self.index_bytes as f64 / self.entries as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"{"original_bytes": 100, "converted_bytes": 103, "tar_bytes": 300, "images": [
        {"index": {"bytes": 40}, "layers": [{"entries": 4, "original_bytes": 100}]}]}"#;

    #[test]
    fn sizes_are_read_from_what_the_converter_says() {
        let sizes = Sizes::read(SAID).unwrap();
        assert_eq!((sizes.ratio(), sizes.index_bytes_per_entry()), (1.03, 10.0));
    }

    #[test]
    fn a_conversion_that_found_work_done_is_no_measurement() {
        assert_eq!(
            Sizes::read(&SAID.replace("\"original_bytes\": 100, \"c", "\"original_bytes\": 0, \"c")),
            None
        );
        assert_eq!(Sizes::read("{}"), None);
    }
}
