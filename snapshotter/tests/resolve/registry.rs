//! A registry of one image's artifact, and that image.

use std::time::Duration;

use jaunt_formats::launch::{self, Blob, Compression, LaunchLayer};
use jaunt_formats::tree::TreeBuilder;
use jaunt_formats::{
    BlobOffset, ChainId, DiffId, Digest, DigestScope, Span, SpanDigest, TarOffset, media_type,
};
use jaunt_snapshotter::labels::RemoteLayer;
use serde_json::{Value, json};
use wiremock::matchers::{any, method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

const CREATED: &str = "org.opencontainers.image.created";

/// An image with a launch index, and the artifact that names it.
pub struct Image {
    pub manifest: Digest,
    pub index: Digest,
    pub blob: Vec<u8>,
    pub artifact: Value,
    diff_ids: Vec<DiffId>,
}

impl Image {
    /// An image of so many empty layers.
    pub fn new(layers: usize) -> Self {
        Self::of((0..layers).map(launch_layer).collect())
    }

    /// An image of one layer, always the same, with an index and an artifact of that day.
    pub fn made_on(day: &str) -> Self {
        let mut layer = launch_layer(0);
        layer.spans[0].digest = SpanDigest(*Digest::of(day.as_bytes()).as_bytes());
        let mut image = Self::of(vec![layer]);
        image.artifact["annotations"] = json!({CREATED: format!("{day}T00:00:00Z")});
        image
    }

    /// An image of one layer, of which the index says what `lie` makes of the truth.
    pub fn lying(lie: impl FnOnce(&mut LaunchLayer)) -> Self {
        let mut layer = launch_layer(0);
        lie(&mut layer);
        Self::of(vec![layer])
    }

    fn of(layers: Vec<LaunchLayer>) -> Self {
        let mut tree = TreeBuilder::new();
        for _ in &layers {
            tree.push_layer(Vec::new()).unwrap();
        }
        let blob = launch::pack(&launch::write(&layers, tree.finish()).unwrap()).unwrap();
        let manifest = Digest::of(b"image manifest");
        let mut described =
            vec![json!({"mediaType": media_type::LAUNCH_INDEX, "digest": manifest, "size": 0})];
        described.extend(layers.iter().map(|layer| {
            let Blob { digest, len, .. } = layer.converted;
            json!({"mediaType": media_type::OCI_LAYER_ZSTD, "digest": digest, "size": len})
        }));
        let artifact = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "artifactType": media_type::LAUNCH_ARTIFACT,
            "config": {"mediaType": media_type::OCI_EMPTY, "digest": Digest::of(b"{}"), "size": 2},
            "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": manifest, "size": 7},
            "layers": described,
        });
        let diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        let mut image = Self { manifest, index: manifest, blob, artifact, diff_ids };
        image.seal();
        image
    }

    /// Makes the artifact name the blob as it now is.
    pub fn seal(&mut self) {
        self.index = Digest::of(&self.blob);
        self.artifact["layers"][0]["digest"] = json!(self.index);
        self.artifact["layers"][0]["size"] = json!(self.blob.len());
    }

    /// The layer on top of the first `prefix`, as containerd would describe it.
    pub fn layer(&self, registry: &Registry, prefix: usize) -> RemoteLayer {
        RemoteLayer {
            target: ChainId::of(&self.diff_ids[..prefix]).unwrap(),
            image: format!("{}:1", registry.repository()).parse().unwrap(),
            manifest: self.manifest,
            layer: launch_layer(prefix - 1).original.digest,
        }
    }
}

fn launch_layer(number: usize) -> LaunchLayer {
    let digest = |what: &str| Digest::of(format!("{what}{number}").as_bytes());
    let blob = |what, compression| Blob { digest: digest(what), len: 100, compression };
    LaunchLayer {
        diff_id: DiffId(digest("diff")),
        original: blob("original", Compression::Gzip),
        converted: blob("converted", Compression::Zstd),
        tar_len: 1024,
        scope: DigestScope::Compressed,
        spans: vec![Span {
            blob_offset: BlobOffset(0),
            compressed_len: 100,
            tar_offset: TarOffset(0),
            tar_len: 1024,
            digest: SpanDigest([0; 32]),
        }],
    }
}

/// What the registry answers is put into it; anything else is 404.
pub struct Registry(MockServer);

impl Registry {
    pub async fn start() -> Self {
        Self(MockServer::start().await)
    }

    pub fn repository(&self) -> String {
        format!("{}/team/app", self.0.address())
    }

    /// The artifact under our own tag, and its blobs.
    pub async fn put_tagged(&self, image: &Image) {
        self.put_manifest(&format!("sha256-{}.jaunt", image.manifest.hex()), &image.artifact).await;
        self.put_blobs(image).await;
    }

    /// The artifact as a referrer only, beside one of another type and one that is not there.
    pub async fn put_referrer(&self, image: &Image) {
        let bytes = image.artifact.to_string();
        let digest = Digest::of(bytes.as_bytes());
        let described = |digest: Digest, kind: &str, created: &str| {
            json!({
                "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": bytes.len(), "artifactType": kind,
                "annotations": {CREATED: created},
            })
        };
        let gone = Digest::of(b"gone");
        let list = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [
            described(digest, media_type::LAUNCH_ARTIFACT, "2026-01-01T00:00:00Z"),
            described(gone, media_type::LAUNCH_ARTIFACT, "2026-01-02T00:00:00Z"),
            described(gone, "application/x", "2026-01-03T00:00:00Z"),
        ]});
        let answer = ResponseTemplate::new(200).set_body_raw(list.to_string(), media_type::OCI_INDEX);
        self.answer("GET", format!("referrers/{}", image.manifest), answer).await;
        self.put_manifest(&digest.to_string(), &image.artifact).await;
        self.put_blobs(image).await;
    }

    /// Nothing is there any more, and nothing was asked.
    pub async fn clear(&self) {
        self.0.reset().await;
    }

    /// Connections are taken and left without an answer.
    pub async fn be_silent(&self) {
        let late = ResponseTemplate::new(200).set_delay(Duration::from_secs(60));
        Mock::given(any()).respond_with(late).mount(&self.0).await;
    }

    /// How many requests had `part` in their path.
    pub async fn requests_for(&self, part: &str) -> usize {
        let requests = self.0.received_requests().await.unwrap();
        requests.iter().filter(|request| request.url.path().contains(part)).count()
    }

    /// Artifacts as referrers only, each with the day it was made.
    pub async fn put_referrers(&self, images: &[&Image]) {
        let mut listed = Vec::new();
        for image in images {
            let digest = self.put_by_digest(&image.artifact).await;
            self.put_blobs(image).await;
            listed.push(json!({
                "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": image.artifact.to_string().len(),
                "artifactType": media_type::LAUNCH_ARTIFACT, "annotations": image.artifact["annotations"],
            }));
        }
        let list = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": listed});
        let answer = ResponseTemplate::new(200).set_body_raw(list.to_string(), media_type::OCI_INDEX);
        self.answer("GET", format!("referrers/{}", images[0].manifest), answer).await;
    }

    /// Requests for a manifest end in `status`.
    pub async fn refuse_manifest(&self, name: &str, status: u16) {
        self.answer("GET", format!("manifests/{name}"), ResponseTemplate::new(status)).await;
    }

    /// An image index.
    pub async fn put_index(&self, name: &str, index: &Value) {
        let answer = ResponseTemplate::new(200).set_body_raw(index.to_string(), media_type::OCI_INDEX);
        self.answer("GET", format!("manifests/{name}"), answer).await;
    }

    pub async fn put_manifest(&self, name: &str, manifest: &Value) {
        let answer = ResponseTemplate::new(200).set_body_raw(manifest.to_string(), media_type::OCI_MANIFEST);
        self.answer("GET", format!("manifests/{name}"), answer).await;
    }

    /// All but the index, which comes after a while.
    pub async fn put_with_late_index(&self, image: &Image, late: Duration) {
        self.put_manifest(&format!("sha256-{}.jaunt", image.manifest.hex()), &image.artifact).await;
        let index = ResponseTemplate::new(200).set_body_bytes(image.blob.clone()).set_delay(late);
        self.answer("GET", format!("blobs/{}", image.index), index).await;
        self.put_layers(image).await;
    }

    /// The index, and the converted layers of the image as made: not what a test put in their place.
    async fn put_blobs(&self, image: &Image) {
        let index = ResponseTemplate::new(200).set_body_bytes(image.blob.clone());
        self.answer("GET", format!("blobs/{}", image.index), index).await;
        self.put_layers(image).await;
    }

    async fn put_layers(&self, image: &Image) {
        for number in 0..image.diff_ids.len() {
            let digest = launch_layer(number).converted.digest;
            let answer = ResponseTemplate::new(200).insert_header("content-length", "100");
            self.answer("HEAD", format!("blobs/{digest}"), answer).await;
        }
    }

    /// A manifest under its own digest.
    pub async fn put_by_digest(&self, manifest: &Value) -> Digest {
        let digest = Digest::of(manifest.to_string().as_bytes());
        self.put_manifest(&digest.to_string(), manifest).await;
        digest
    }

    /// A blob that can be had in ranges.
    pub async fn put_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.put_blob_as(&digest, bytes).await;
        digest
    }

    /// The same under a digest that may be another.
    pub async fn put_blob_as(&self, digest: &Digest, bytes: &[u8]) {
        let path = path(format!("/v2/team/app/blobs/{digest}"));
        Mock::given(method("GET")).and(path).respond_with(Ranges(bytes.to_vec())).mount(&self.0).await;
    }

    async fn answer(&self, verb: &str, what: String, answer: ResponseTemplate) {
        let path = path(format!("/v2/team/app/{what}"));
        Mock::given(method(verb)).and(path).respond_with(answer).mount(&self.0).await;
    }
}

struct Ranges(Vec<u8>);

impl Respond for Ranges {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let asked =
            request.headers.get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
        let Some((first, last)) = asked.and_then(|range| range.split_once('-')) else {
            return ResponseTemplate::new(200).set_body_bytes(self.0.clone());
        };
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let stated = format!("bytes {first}-{last}/{}", self.0.len());
        let part = self.0[first..=last].to_vec();
        ResponseTemplate::new(206).insert_header("content-range", stated.as_str()).set_body_bytes(part)
    }
}
