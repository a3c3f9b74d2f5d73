//! What converting the image costs: once per image, on the registry's side.

use std::time::Instant;

use jaunt_tests::error::{Error, Result};
use jaunt_tests::process::cpu_seconds;
use jaunt_tests::{Binaries, Registry, Scratch};
use serde::Serialize;

use crate::Subject;

/// The figures of one conversion.
#[derive(Clone, Debug, Serialize)]
pub struct Conversion {
    /// From the command's start to its end.
    pub seconds: f64,
    /// Of the converter, user and system.
    pub cpu_s: f64,
    /// Original compressed megabytes a second of wall time.
    pub mb_per_s: f64,
    /// Everything the launch artifact refers to.
    pub artifact_bytes: u64,
}

impl Conversion {
    /// Runs `jaunt-proxy convert` on the image and measures it.
    pub fn run(
        scratch: &Scratch,
        binaries: &Binaries,
        registry: &Registry,
        subject: &Subject,
    ) -> Result<Self> {
        let before = children_cpu()?;
        let start = Instant::now();
        binaries.convert(scratch, &subject.reference)?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_s = children_cpu()? - before;
        let mb_per_s = subject.bytes as f64 / 1e6 / seconds;
        Ok(Self { seconds, cpu_s, mb_per_s, artifact_bytes: artifact_bytes(registry)? })
    }
}

/// CPU time of all children this process has waited for.
fn children_cpu() -> Result<f64> {
    let times = cpu_seconds("self").ok_or_else(|| Error::unexpected("/proc/self/stat", "not as expected"))?;
    Ok(times.1)
}

/// The artifact is found by the tag every node can ask for.
fn artifact_bytes(registry: &Registry) -> Result<u64> {
    let (_, digest) = registry.manifest("demo", "latest")?;
    let (artifact, _) = registry.manifest("demo", &format!("sha256-{}.jaunt", digest.hex()))?;
    Ok(artifact["layers"].as_array().into_iter().flatten().filter_map(|layer| layer["size"].as_u64()).sum())
}
