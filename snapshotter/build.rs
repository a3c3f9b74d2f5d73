//! Compiles the vendored gRPC interfaces without `protoc`: protox parses them in Rust.

use std::error::Error;

const PROTOS: [&str; 16] = [
    "services/snapshots/v1/snapshots.proto",
    "services/transfer/v1/transfer.proto",
    "services/streaming/v1/streaming.proto",
    "services/introspection/v1/introspection.proto",
    "services/version/v1/version.proto",
    "services/images/v1/images.proto",
    "services/content/v1/content.proto",
    "services/leases/v1/leases.proto",
    "services/namespaces/v1/namespace.proto",
    "types/transfer/registry.proto",
    "types/transfer/imagestore.proto",
    "types/transfer/progress.proto",
    "runtime/v1/images.proto",
    "jaunt/status/v1/status.proto",
    "jaunt/admin/v1/admin.proto",
    "jaunt/originals/v1/originals.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut descriptors = protox::compile(PROTOS, ["proto"])?;
    // Without comments: rustdoc would take the indented ones for examples, and test them.
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    tonic_prost_build::configure()
        .skip_debug(["runtime.v1.AuthConfig", "containerd.types.transfer.AuthResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}
