//! Media types and annotation keys: Jaunt's own, the image spec's, Docker's and zstd:chunked's.

/// `artifactType` of a launch artifact's manifest.
pub const LAUNCH_ARTIFACT: &str = "application/vnd.jaunt.launch.v1";
/// `artifactType` of what an interrupted conversion has made so far: launch indexes of one layer each, without a
/// tree, and behind each its converted layer.
pub const LAUNCH_PARTIAL: &str = "application/vnd.jaunt.launch.partial.v1";
/// The launch index: one zstd frame around the bytes described in `launch::layout`.
pub const LAUNCH_INDEX: &str = "application/vnd.jaunt.launch.index.v1";
/// The boot pack.
pub const LAUNCH_BOOT_PACK: &str = "application/vnd.jaunt.launch.boot.v1";
/// A trace of a start: `artifactType` of the manifest that a node leaves beside the image, and its layer.
pub const LAUNCH_TRACE: &str = "application/vnd.jaunt.launch.trace.v1";

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI empty JSON object, the config of an artifact that has none.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// OCI uncompressed layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI gzip layer.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI zstd layer: what a converted layer is.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker gzip layer.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker uncompressed layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// zstd under Docker's name, as some builders write it.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// The media types of one image's manifest, for an `Accept` header.
pub const IMAGE_MANIFESTS: [&str; 2] = [OCI_MANIFEST, DOCKER_MANIFEST];
/// The media types of an index of images, for an `Accept` header.
pub const IMAGE_INDEXES: [&str; 2] = [OCI_INDEX, DOCKER_LIST];

/// zstd:chunked: digest of the compressed TOC.
pub const CHUNKED_MANIFEST_CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";
/// zstd:chunked: `offset:length:rawlength:1` of the TOC.
pub const CHUNKED_MANIFEST_POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
/// zstd:chunked: `offset:length:rawlength` of the tar-split.
pub const CHUNKED_TARSPLIT_POSITION: &str = "io.github.containers.zstd-chunked.tarsplit-position";

/// On a converted layer: the diffID of its tar.
pub const DIFF_ID: &str = "dev.jaunt.diff-id";
/// On a converted layer: digest of the layer blob it stands for.
pub const ORIGINAL_DIGEST: &str = "dev.jaunt.original-digest";
/// On a manifest or index in replace mode: digest of the one it stands for.
pub const ORIGINAL_MANIFEST: &str = "dev.jaunt.original-manifest";
/// On an image manifest in replace mode: digest of its launch index, so that the image's digest covers it.
pub const LAUNCH_INDEX_DIGEST: &str = "dev.jaunt.launch-index";
/// On a converted layer: how it was made (level and encoder version), so that it can be made again.
pub const RECIPE: &str = "dev.jaunt.recipe";
/// On a boot pack: length and digest of its table, as [`TablePlace`](crate::boot::TablePlace) writes them.
pub const BOOT_TABLE: &str = "dev.jaunt.boot.table";
/// On a boot pack: digests of the traces that it was made of, and of packs of the same image that were, separated by spaces.
pub const BOOT_TRACES: &str = "dev.jaunt.boot.traces";
/// On a boot pack: digest of the pack of another image that it was made of. Nodes need not know.
pub const BOOT_PREDECESSOR: &str = "dev.jaunt.boot.predecessor";
