//! A state directory as a daemon leaves it: a lazy chain of two layers, an unpacked layer on it, a container on that.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use jaunt_formats::launch::{self, Blob, Compression, LaunchIndex, LaunchLayer};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{BlobOffset, ChainId, DiffId, Digest, DigestScope, Span, SpanDigest, TarOffset};
use jaunt_layerfs::store::{LargeFiles, Store, check as layers};
use jaunt_snapshotter::index_store::IndexStore;
use jaunt_snapshotter::metastore::{Backing, Creation, Kind, Learnt, MetaStore, Pin, Voucher};
use redb::{Database, TableDefinition};
use serde_json::Value;

pub const SNAPSHOTS: &str = "snapshots.v1";
pub const PINS: &str = "pins.v1";

pub struct State {
    dir: tempfile::TempDir,
    pub index: Digest,
    /// Names of the snapshots, the lowest first.
    pub names: [String; 4],
    layers: Vec<LaunchLayer>,
}

impl State {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let layers: Vec<LaunchLayer> = (0..2).map(layer).collect();
        let mut tree = TreeBuilder::new();
        layers.iter().for_each(|_| tree.push_layer(Vec::new()).unwrap());
        let raw = launch::write(&layers, tree.finish()).unwrap();
        let index = Digest::of(&raw);
        IndexStore::open(&root).unwrap().write(&index, &raw).unwrap();
        let diff_ids = LaunchIndex::open(raw).unwrap().diff_ids();
        let chains: Vec<ChainId> = ChainId::prefixes(&diff_ids).collect();
        let names =
            [chains[0].to_string(), chains[1].to_string(), "eager".to_owned(), "container".to_owned()];
        let lazy =
            |at: usize| Backing::Lazy { chain_id: chains[at], index, prefix: u16::try_from(at + 1).unwrap() };
        let store = MetaStore::open(&root.join("meta.redb")).unwrap();
        let kinds = [Kind::Committed, Kind::Committed, Kind::Committed, Kind::Active];
        let backings = [lazy(0), lazy(1), Backing::Eager, Backing::Eager];
        for (at, (kind, backing)) in kinds.into_iter().zip(backings).enumerate() {
            let parent = at.checked_sub(1).map(|below| names[below].clone());
            let id = store.reserve().id();
            let labels = [("containerd.io/snapshot.ref".to_owned(), names[at].clone())].into();
            let new = Creation { name: names[at].clone(), id, kind, parent, labels, backing };
            store.create(new).await.unwrap();
        }
        let pin =
            Pin { repository: "r.example/team/app".parse().unwrap(), manifest: Digest::of(b"manifest") };
        store.learn(pin, Learnt { index, by: Voucher::Registry }).await.unwrap();
        for id in [3, 4] {
            for part in ["fs", "work"] {
                fs::create_dir_all(root.join(format!("snapshots/{id}/{part}"))).unwrap();
            }
        }
        let kept = Store::open(&root.join("layers")).unwrap();
        drop(kept.layer(&layers[0], &LargeFiles::default()));
        drop(store);
        let state = Self { dir, index, names, layers };
        // The store's thread closes the database a moment later.
        eventually("the database is closed", || Database::open(state.root("meta.redb")).is_ok());
        state
    }

    pub fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    pub fn index_path(&self) -> PathBuf {
        self.root("index").join(self.index.hex())
    }

    /// Where the lowest layer is kept.
    pub fn layer_path(&self) -> PathBuf {
        layers::directory_of(&self.root("layers"), &self.layers[0], &LargeFiles::default())
    }

    /// Puts a row into the database, or takes one out.
    pub fn put(&self, table: &str, key: &str, value: Option<&[u8]>) {
        let db = Database::open(self.root("meta.redb")).unwrap();
        let transaction = db.begin_write().unwrap();
        {
            let mut table = transaction.open_table(TableDefinition::<&str, &[u8]>::new(table)).unwrap();
            match value {
                Some(value) => drop(table.insert(key, value).unwrap()),
                None => drop(table.remove(key).unwrap()),
            }
        }
        transaction.commit().unwrap();
    }

    /// A snapshot's record, to be put back changed.
    pub fn record(&self, name: &str) -> Value {
        let rows = jaunt_snapshotter::metastore::inspect(&self.root("meta.redb")).unwrap();
        serde_json::to_value(rows.snapshots.iter().find(|snapshot| snapshot.name == name).unwrap()).unwrap()
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        command.arg(word).arg("--root").arg(self.root("")).arg("--run-dir").arg(self.dir.path().join("run"));
        command.arg("--config").arg("/dev/null").env("RUST_LOG", "info");
        command
    }

    pub fn check_output(&self, flags: &[&str]) -> Output {
        self.command("check").args(flags).output().unwrap()
    }

    /// What `check` says, and its exit code.
    pub fn check(&self, flags: &[&str]) -> (Value, Option<i32>) {
        let output = self.check_output(&[flags, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout);
        (report.unwrap_or_else(|error| panic!("{error}: {said}")), output.status.code())
    }

    /// Codes of what `check` finds.
    pub fn codes(&self, flags: &[&str]) -> Vec<String> {
        let (report, code) = self.check(flags);
        assert_eq!(code, Some(if report["sound"] == true { 0 } else { 3 }), "{report}");
        codes(&report["findings"])
    }

    /// What `prune` did.
    pub fn prune(&self, flags: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        command.args(["prune", "--json", "--config", "/dev/null", "--root"]).arg(self.root(""));
        command.arg("--socket").arg(self.dir.path().join("run/snapshotter.sock")).args(flags);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    pub fn serve(&self) -> Daemon {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = self.command("serve");
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon =
            Daemon { child: command.spawn().unwrap(), socket: self.dir.path().join("run/snapshotter.sock") };
        eventually("the daemon answers", || daemon.names().is_some());
        daemon
    }
}

/// Killed at the end, its worker with it.
pub struct Daemon {
    pub child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// The snapshots that it has.
    pub fn names(&self) -> Option<Vec<String>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        let output = command.args(["status", "--json", "--socket"]).arg(&self.socket).output().unwrap();
        let status: Value =
            serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
        let names = status["snapshots"].as_array()?.iter();
        Some(names.map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect())
    }
}

impl Daemon {
    /// A `status` that goes on, and its lines.
    pub fn watch(&self) -> (Child, impl Iterator<Item = std::io::Result<String>> + use<>) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jaunt-snapshotter"));
        command.args(["status", "--json", "--watch", "1", "--socket"]).arg(&self.socket);
        let mut child = command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap());
        (child, std::io::BufRead::lines(lines))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn codes(findings: &Value) -> Vec<String> {
    findings.as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn layer(number: usize) -> LaunchLayer {
    let digest = |what: &str| Digest::of(format!("{what}{number}").as_bytes());
    let blob = |what, compression| Blob { digest: digest(what), len: 100, compression };
    let span = Span {
        blob_offset: BlobOffset(0),
        compressed_len: 100,
        tar_offset: TarOffset(0),
        tar_len: 1024,
        digest: SpanDigest([0; 32]),
    };
    LaunchLayer {
        diff_id: DiffId(digest("diff")),
        original: blob("original", Compression::Gzip),
        converted: blob("converted", Compression::Zstd),
        tar_len: 1024,
        scope: DigestScope::Compressed,
        spans: vec![span],
    }
}
