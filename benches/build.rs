//! Compiles the gRPC interfaces of containerd that a measurement speaks, out of those that the snapshotter vendors.

use std::error::Error;

const DIR: &str = "../snapshotter/proto";
const PROTOS: [&str; 1] = ["services/snapshots/v1/snapshots.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={DIR}");
    let mut descriptors = protox::compile(PROTOS, [DIR])?;
    // Without comments: rustdoc would take the indented ones for examples, and test them.
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
