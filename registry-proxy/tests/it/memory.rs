//! What converting takes in memory, whatever the layer. The largest are left out of other runs because they take
//! minutes:
//!
//! `cargo test --release -p jaunt-proxy --test it memory -- --ignored --nocapture --test-threads 1`
//! prints the most memory that was resident, as doc/BENCHMARKS.md has it. A layer is generated into an OCI
//! layout, gzipped and so small on disk, and converted there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jaunt_formats::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{OCI_GZIP, OCI_MANIFEST};

/// Hashes what is written through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    len: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), len: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a blob and gives it its name.
fn put(layout: &Path, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    json!({ "digest": digest, "size": bytes.len() })
}

/// An image of layers with so many files of so many bytes, a thousand in each directory.
fn image(layout: &Path, layers: u64, files: u64, size: u64) {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let layers: Vec<_> = (0..layers).map(|number| layer(layout, number, files, size)).collect();
    let (diff_ids, layers): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let mut config = put(layout, config.to_string().as_bytes());
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers });
    let mut manifest = put(layout, manifest.to_string().as_bytes());
    manifest["mediaType"] = json!(OCI_MANIFEST);
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())
        .unwrap();
    fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
}

/// Writes a layer's blob; its diffID and its descriptor.
fn layer(layout: &Path, number: u64, files: u64, size: u64) -> (Digest, Value) {
    let path = layout.join("layer");
    let blob = Hashing::new(BufWriter::new(File::create(&path).unwrap()));
    let tar = Hashing::new(GzEncoder::new(blob, Compression::fast()));
    let mut builder = tar::Builder::new(tar);
    for file in 0..files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000 + file);
        header.set_size(size);
        let name = format!("usr/lib/node{number}/package-{:04}/dist/module-{file:07}.js", file / 1000);
        // Differs from file to file; the rest repeats itself, so that the blob is small.
        let content = io::Read::take(io::Read::chain(io::Cursor::new(name.clone()), io::repeat(b'x')), size);
        builder.append_data(&mut header, name, content).unwrap();
    }
    let tar = builder.into_inner().unwrap();
    let diff_id = Digest::from_bytes(tar.hash.finalize().into());
    let mut blob = tar.inner.finish().unwrap();
    blob.flush().unwrap();
    let digest = Digest::from_bytes(blob.hash.finalize().into());
    fs::rename(&path, layout.join("blobs/sha256").join(digest.hex())).unwrap();
    (diff_id, json!({ "mediaType": OCI_GZIP, "digest": digest, "size": blob.len }))
}

/// KiB that converting was resident with at most.
fn peak(layers: u64, files: u64, size: u64) -> u64 {
    let directory = tempfile::tempdir().unwrap();
    image(directory.path(), layers, files, size);
    let mut child = Command::new(env!("CARGO_BIN_EXE_jaunt-proxy"))
        .args(["convert", &format!("oci:{}", directory.path().display())])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let high = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse().ok());
        peak = peak.max(high.unwrap_or(0));
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success());
    println!("{layers} layers of {files} files of {size} bytes: {} MiB at most", peak >> 10);
    peak
}

/// The bar: whatever the layer.
const BAR: u64 = 256 << 10;

/// An image's names are in memory while its index is made, and what else it takes is the same for any image.
#[test]
fn an_entry_takes_some_two_hundred_bytes() {
    const MORE: u64 = 100_000;
    let (few, many) = (peak(1, 50_000, 300), peak(1, 50_000 + MORE, 300));
    let bytes = (many.saturating_sub(few) << 10) / MORE;
    println!("{bytes} bytes an entry");
    assert!(bytes <= 400, "{bytes} bytes an entry");
}

#[test]
#[ignore = "generates and converts 10 GB"]
fn ten_gigabytes_in_large_files() {
    assert!(peak(1, 100, 100 << 20) <= BAR);
}

#[test]
#[ignore = "converts a million files"]
fn a_million_small_files() {
    assert!(peak(1, 1_000_000, 300) <= BAR);
}

/// All at once, each small enough for a table of contents.
#[test]
#[ignore = "converts 900,000 files"]
fn three_layers_of_many_files() {
    assert!(peak(3, 300_000, 300) <= BAR);
}
