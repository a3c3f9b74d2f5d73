//! Compiles the vendored gRPC interfaces without `protoc`: protox parses them in Rust.

use std::error::Error;

const PROTOS: [&str; 12] = [
    "services/snapshots/v1/snapshots.proto",
    "services/transfer/v1/transfer.proto",
    "services/streaming/v1/streaming.proto",
    "services/introspection/v1/introspection.proto",
    "services/version/v1/version.proto",
    "services/images/v1/images.proto",
    "services/content/v1/content.proto",
    "types/transfer/registry.proto",
    "types/transfer/imagestore.proto",
    "types/transfer/progress.proto",
    "runtime/v1/images.proto",
    "jaunt/status/v1/status.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // Rust would take the protocols' indented comments for examples, and test them.
    tonic_prost_build::configure()
        .disable_comments(".")
        .skip_debug(["runtime.v1.AuthConfig", "containerd.types.transfer.AuthResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}
