//! Learnt boot packs for what is measured: what a node noted of a start, and the pack that is made of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jaunt_tests::error::{Error, Result};
use jaunt_tests::process::{run, wait_until};
use jaunt_tests::{Binaries, Node, Registry, Scratch};

/// A start comes to rest after some seconds, on a busy machine later.
const LIMIT: Duration = Duration::from_secs(120);
/// In the configuration of a node that starts with a learnt pack. By default one start of many is traced and nothing pushed for it,
/// as it falls out: that is another start than the one whose figure is taken.
pub const NEVER_TRACED: &str = "[boot]\ntrace_one_in = 0\n";

/// Takes the trace of a start of `reference` out of a node, once it is there.
pub fn take_out(
    scratch: &Scratch,
    binaries: &Binaries,
    node: &Node<'_>,
    reference: &str,
    to: PathBuf,
) -> Result<PathBuf> {
    let jaunt = node.jaunt.as_ref().ok_or_else(|| Error::unexpected("the node", "has no snapshotter"))?;
    let root = jaunt.root();
    let ask = || {
        let mut command = binaries.snapshotter(scratch, &["trace", reference]);
        run(command.arg("--root").arg(&root).arg("--output").arg(&to))
    };
    wait_until("a trace", LIMIT, || ask().is_ok())?;
    Ok(to)
}

/// Makes the boot pack of an image in `registry` from traces.
pub fn optimize(
    scratch: &Scratch,
    binaries: &Binaries,
    registry: &Registry,
    traces: &[PathBuf],
    reference: &str,
) -> Result<()> {
    let host = registry.host();
    let mut command = binaries.proxy(scratch, &["optimize", "--plain-http", &host]);
    for trace in traces.iter().map(PathBuf::as_path) {
        command.args([Path::new("--trace"), trace]);
    }
    run(command.arg(reference)).map(drop)
}
