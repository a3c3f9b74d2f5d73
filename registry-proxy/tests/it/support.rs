//! A registry, images made by hand, and the program under test.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jaunt_distribution::{Client, ClientConfig, Repository};
use jaunt_formats::Digest;
use serde_json::{Value, json};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Debian's registry on loopback with one repository; killed when dropped.
pub struct Registry {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Registry {
    /// Starts one; where the program is missing, says so and returns `None`.
    pub fn start() -> Option<Self> {
        Self::start_with("delete: {enabled: true}")
    }

    /// One that forbids all deletion.
    pub fn start_without_deletion() -> Option<Self> {
        Self::start_with("delete: {enabled: false}")
    }

    fn start_with(storage: &str) -> Option<Self> {
        let binary = "/usr/bin/docker-registry";
        if !Path::new(binary).exists() {
            eprintln!("skipped: docker-registry is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        // Between our letting go of the port and its taking it, another process may: try again.
        let (child, address) =
            (0..5).find_map(|_| spawn(binary, directory.path(), storage)).expect("a registry starts");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = Client::new(ClientConfig { auth_files: Vec::new(), ..ClientConfig::default() }).unwrap();
        Some(Self { child, address, directory, runtime, client })
    }

    /// A reference into the registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The digest that a tag names.
    pub fn digest(&self, repository: &str, tag: &str) -> Digest {
        let accept = [OCI_MANIFEST, OCI_INDEX];
        let repository = self.repository(repository);
        self.runtime.block_on(self.client.manifest_digest(&repository, tag, &accept)).unwrap()
    }

    fn repository(&self, name: &str) -> Repository {
        self.reference(name).parse().unwrap()
    }

    pub fn push_blob(&self, repository: &str, blob: Vec<u8>) -> Digest {
        let digest = Digest::of(&blob);
        let repository = self.repository(repository);
        self.runtime.block_on(self.client.push_blob(&repository, &digest, Bytes::from(blob))).unwrap();
        digest
    }

    pub fn push_manifest(&self, repository: &str, name: &str, document: &Value) -> Digest {
        let bytes = serde_json::to_vec(document).unwrap();
        let media_type = document["mediaType"].as_str().unwrap();
        let repository = self.repository(repository);
        let pushed = self.client.push_manifest(&repository, name, media_type, bytes.into());
        self.runtime.block_on(pushed).unwrap().digest
    }

    pub fn manifest(&self, repository: &str, name: &str) -> Option<Value> {
        let accept = [OCI_MANIFEST, OCI_INDEX];
        let repository = self.repository(repository);
        let found =
            self.runtime.block_on(self.client.manifest_if_exists(&repository, name, &accept)).unwrap();
        found.map(|manifest| serde_json::from_slice(&manifest.bytes).unwrap())
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Vec<u8> {
        let digest = digest.parse().unwrap();
        let repository = self.repository(repository);
        self.runtime.block_on(self.client.blob(&repository, &digest, 1 << 30)).unwrap().to_vec()
    }

    /// Every tag of a repository, sorted.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let mut tags = self.runtime.block_on(self.client.tags(&self.repository(repository))).unwrap();
        tags.sort();
        tags
    }

    pub fn delete_manifest(&self, repository: &str, digest: &Digest) {
        let repository = self.repository(repository);
        self.runtime.block_on(self.client.delete_manifest(&repository, digest)).unwrap();
    }

    /// Removes a tag behind the registry's back; the manifest stays.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        let repositories = self.directory.path().join("data/docker/registry/v2/repositories");
        std::fs::remove_dir_all(repositories.join(repository).join("_manifests/tags").join(tag)).unwrap();
    }

    /// The file in which the registry keeps a blob.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Uploads under way, or left behind. Of cancelled ones, the registry itself leaves empty directories.
    pub fn uploads(&self, repository: &str) -> usize {
        self.upload_lens(repository).len()
    }

    /// Bytes that have come of each of them.
    pub fn upload_lens(&self, repository: &str) -> Vec<u64> {
        let repositories = self.directory.path().join("data/docker/registry/v2/repositories");
        let sessions = std::fs::read_dir(repositories.join(repository).join("_uploads"));
        sessions
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|session| Some(session.path().join("data").metadata().ok()?.len()))
            .collect()
    }

    /// Everything stored, to see that nothing changed.
    pub fn blob_count(&self) -> usize {
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs/sha256");
        let entries = |path: PathBuf| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries(blobs).flat_map(entries).count()
    }

    /// Pushes an image with these layers under a tag; the manifest's digest.
    pub fn push_image(&self, repository: &str, tag: &str, layers: &[Layer]) -> Digest {
        let manifest = self.image(repository, layers, "linux");
        self.push_manifest(repository, tag, &manifest)
    }

    /// Pushes an image's blobs; its manifest.
    pub fn image(&self, repository: &str, layers: &[Layer], os: &str) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let config = json!({
            "architecture": "amd64", "os": os, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let descriptor = |media_type: &str, bytes: Vec<u8>| {
            let size = bytes.len();
            json!({ "mediaType": media_type, "digest": self.push_blob(repository, bytes), "size": size })
        };
        let config = descriptor(OCI_CONFIG, serde_json::to_vec(&config).unwrap());
        let layers: Vec<_> =
            layers.iter().map(|layer| descriptor(layer.media_type, layer.blob.clone())).collect();
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers })
    }

    /// Runs `jaunt-proxy`.
    pub fn run(&self, arguments: &[&str]) -> Run {
        run(arguments)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binary: &str, directory: &Path, storage: &str) -> Option<(Child, SocketAddr)> {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = directory.join("config.yml");
    let root = directory.join("data").display().to_string();
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}}}, \
         {storage}}}\nhttp: {{addr: \"{address}\"}}\n"
    );
    std::fs::File::create(&config).unwrap().write_all(text.as_bytes()).unwrap();
    let mut command = Command::new(binary);
    command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none() {
        if TcpStream::connect(address).is_ok() {
            return Some((child, address));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Standard output as JSON, of a run that succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The error of a run that failed.
    pub fn failed(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        &self.stderr
    }
}

pub fn run(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-proxy"));
    let Output { status, stdout, stderr } = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A layer: its blob, and the diffID that the config will state.
#[derive(Clone)]
pub struct Layer {
    pub media_type: &'static str,
    pub blob: Vec<u8>,
    pub diff_id: Digest,
}

impl Layer {
    pub fn gzip(tar: &[u8]) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).unwrap();
        Self { media_type: OCI_GZIP, blob: encoder.finish().unwrap(), diff_id: Digest::of(tar) }
    }

    pub fn zstd(tar: &[u8]) -> Self {
        Self { media_type: OCI_ZSTD, blob: zstd::encode_all(tar, 1).unwrap(), diff_id: Digest::of(tar) }
    }

    pub fn plain(tar: &[u8]) -> Self {
        Self { media_type: OCI_TAR, blob: tar.to_vec(), diff_id: Digest::of(tar) }
    }
}

/// A tar of files; a name ending in `/` is a directory.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress, and differ by seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    std::iter::repeat_with(next).take(len).collect()
}
