//! Images copied byte for byte between registries and OCI layouts, by skopeo.

use std::path::Path;

use crate::error::Result;
use crate::process::run;
use crate::scratch::Scratch;

/// Pushes a layout to `host/repository:tag` in plain HTTP.
pub fn push_layout(scratch: &Scratch, layout: &Path, reference: &str) -> Result<()> {
    copy(scratch, &format!("oci:{}:latest", layout.display()), reference, false)
}

/// Copies an image of any registry to `host/repository:tag` in plain HTTP.
pub fn copy_image(scratch: &Scratch, source: &str, reference: &str) -> Result<()> {
    let loopback = ["localhost", "127.", "[::1]"].iter().any(|host| source.starts_with(host));
    copy(scratch, &format!("docker://{source}"), reference, loopback)
}

/// What skopeo says of an image, as JSON.
pub fn inspect(scratch: &Scratch, reference: &str) -> Result<String> {
    let image = format!("docker://{reference}");
    run(scratch.command("skopeo").args(["inspect", "--tls-verify=false", &image]))
}

fn copy(scratch: &Scratch, source: &str, reference: &str, plain_source: bool) -> Result<()> {
    let mut command = scratch.command("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
    if plain_source {
        command.arg("--src-tls-verify=false");
    }
    run(command.arg(source).arg(format!("docker://{reference}")))?;
    Ok(())
}
