//! The sum of a conversion's parts: what gunzip, zstd and two digests of the same layers take alone.
//!
//! Each part is the usual program for it, one after the other, on files in the page cache, its output thrown
//! away: nobody could convert with these programs for less.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use jaunt_formats::Digest;
use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::usage::measure;
use jaunt_tests::{Registry, Scratch, Usage};
use rustix::time::{ClockId, clock_gettime};

/// The layers of an image as files, each once.
#[derive(Debug)]
pub struct Layers {
    blobs: Vec<PathBuf>,
    tars: Vec<PathBuf>,
}

/// What each part takes for all layers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// `gzip -dc` of the blob.
    pub gunzip: Usage,
    /// `zstd -3` of the tar, on one thread.
    pub zstd: Usage,
    /// SHA-256 of the tar, with OpenSSL.
    pub tar_digest: Usage,
    /// SHA-256 of the blob, with OpenSSL.
    pub blob_digest: Usage,
    /// CPU seconds of zlib-rs in this process, on the same blobs; no part of the sum.
    pub zlib_rs_cpu_s: f64,
}

impl Layers {
    /// Of an image in `registry`, decompressed into the scratch.
    pub fn of(scratch: &Scratch, registry: &Registry, repository: &str) -> Result<Self> {
        let (manifest, _) = registry.manifest(repository, "latest")?;
        let dir = scratch.dir(&format!("tars/{repository}"))?;
        let mut layers = Self { blobs: Vec::new(), tars: Vec::new() };
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            let name = layer["digest"].as_str().unwrap_or_default();
            let digest: Digest =
                name.parse().map_err(|_| Error::unexpected("a layer of the image", layer.to_string()))?;
            let (blob, tar) = (registry.blob_file(&digest), dir.join(digest.hex()));
            if layers.blobs.contains(&blob) {
                continue;
            }
            let output = File::create(&tar).at(&tar)?;
            measure(Command::new("gzip").arg("-dc").arg(&blob), output.into())?;
            layers.blobs.push(blob);
            layers.tars.push(tar);
        }
        Ok(layers)
    }

    /// Runs every part on every layer.
    pub fn measure(&self) -> Result<Parts> {
        let digest = ["openssl", "dgst", "-sha256"];
        Ok(Parts {
            gunzip: each(&self.blobs, &["gzip", "-dc"])?,
            zstd: each(&self.tars, &["zstd", "-3", "--single-thread", "-qc"])?,
            tar_digest: each(&self.tars, &digest)?,
            blob_digest: each(&self.blobs, &digest)?,
            zlib_rs_cpu_s: self.blobs.iter().map(|blob| zlib_rs(blob)).sum::<Result<f64>>()?,
        })
    }

    /// Removes the decompressed layers.
    pub fn remove(self) -> Result<()> {
        self.tars.iter().try_for_each(|tar| fs::remove_file(tar).at(tar))
    }
}

impl Parts {
    /// All of them, one after the other.
    pub fn sum(&self) -> Usage {
        self.gunzip.then(self.zstd).then(self.tar_digest).then(self.blob_digest)
    }
}

fn each(files: &[PathBuf], words: &[&str]) -> Result<Usage> {
    files.iter().try_fold(Usage::default(), |sum, file| {
        let mut command = Command::new(words[0]);
        let (_, usage) = measure(command.args(&words[1..]).arg(file), Stdio::null())?;
        Ok(sum.then(usage))
    })
}

/// CPU seconds of this thread for decompressing a blob as `jaunt-proxy` does, and nothing else.
fn zlib_rs(blob: &Path) -> Result<f64> {
    let now = || -> Result<Duration> {
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))
            .map_err(|_| Error::unexpected("the clock", "is odd"))
    };
    let file = File::open(blob).at(blob)?;
    let start = now()?;
    let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(64 << 10, file));
    let mut buffer = vec![0; 256 << 10];
    while io::Read::read(&mut decoder, &mut buffer).at(blob)? > 0 {}
    Ok((now()? - start).as_secs_f64())
}
