//! Compiles the kubelet's interface, and one of containerd's, without `protoc`: protox parses them in Rust.

use std::error::Error;

const CONTAINERDS: &str = "../snapshotter/proto";
const LEASES: &str = "services/leases/v1/leases.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed={CONTAINERDS}/{LEASES}");
    let mut descriptors = protox::compile(["cri.proto", LEASES], ["proto", CONTAINERDS])?;
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
