//! Compiles the kubelet's interface without `protoc`: protox parses it in Rust.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut descriptors = protox::compile(["cri.proto"], ["proto"])?;
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
