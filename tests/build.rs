//! Compiles the kubelet's interface, and two of containerd's, without `protoc`: protox parses them in Rust.

use std::error::Error;

const CONTAINERDS: &str = "../snapshotter/proto";
const LEASES: &str = "services/leases/v1/leases.proto";
const SNAPSHOTS: &str = "services/snapshots/v1/snapshots.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed={CONTAINERDS}/{LEASES}");
    println!("cargo::rerun-if-changed={CONTAINERDS}/{SNAPSHOTS}");
    let mut descriptors = protox::compile(["cri.proto", LEASES, SNAPSHOTS], ["proto", CONTAINERDS])?;
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
