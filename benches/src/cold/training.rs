//! Boot packs for what is measured: some starts are traced on fresh nodes, and a copy of the image gets a pack made of them.
//!
//! The image itself stays without one, so that both can take turns.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jaunt_tests::Node;
use jaunt_tests::error::{Error, Result};
use jaunt_tests::process::{run, wait_until};

use super::line::Laid;
use super::{Bench, Case};
use crate::layerfs::roots::STREAMING;

/// How many starts a pack is made of.
const STARTS: usize = 3;
/// A start comes to rest after the time below, on a busy machine later.
const LIMIT: Duration = Duration::from_secs(120);
const SETTLED: &str = "[boot]\nsettled_seconds = 2\n";

impl Bench<'_> {
    /// Copies an image with its launch artifact to [`Case::packed`], and makes the copy a boot pack of some starts over `laid`.
    pub fn pack(&self, case: &mut Case, laid: &Laid) -> Result<()> {
        let name = &case.subject.name;
        let copy = format!("{}/{}:latest", self.registry.host(), case.packed());
        self.proxy(&["copy", &case.subject.reference, &copy])?;
        let mut words = vec!["optimize".to_owned()];
        for number in 1..=STARTS {
            self.progress.say(&format!("{name}: tracing start {number} of {STARTS}"));
            let trace = self.trace(case, laid, number)?;
            words.extend(["--trace".to_owned(), trace.display().to_string()]);
        }
        words.push(copy.clone());
        self.proxy(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        case.pack_bytes = Some(pack_bytes(&self.proxy(&["inspect", "--json", &copy])?)?);
        Ok(())
    }

    /// What a start on a fresh node touched, in a file.
    fn trace(&self, case: &Case, laid: &Laid, number: usize) -> Result<PathBuf> {
        let node =
            Node::configured(self.scratch, self.binaries, &[laid.host()], &format!("{STREAMING}{SETTLED}"))?;
        let (_, mut container) = self.run(&node, case, laid, case.subject.repository())?;
        let jaunt = node.jaunt.as_ref().ok_or_else(|| Error::unexpected("the node", "has no snapshotter"))?;
        let to = self.scratch.dir("traces")?.join(format!("{}-{number}", case.subject.repository()));
        let reference = laid.reference(case.subject.repository());
        wait_until("a trace", LIMIT, || self.take_out(&jaunt.root(), &reference, &to).is_ok())?;
        container.stop()?;
        node.wipe()?;
        Ok(to)
    }

    fn take_out(&self, root: &Path, reference: &str, to: &Path) -> Result<String> {
        let mut command = self.binaries.snapshotter(self.scratch, &["trace", reference]);
        run(command.arg("--root").arg(root).arg("--output").arg(to))
    }

    fn proxy(&self, words: &[&str]) -> Result<String> {
        let host = self.registry.host();
        let (verb, rest) = words.split_at(1);
        run(&mut self.binaries.proxy(self.scratch, &[verb, &["--plain-http", &host], rest].concat()))
    }
}

fn pack_bytes(inspected: &str) -> Result<u64> {
    let told: serde_json::Value = serde_json::from_str(inspected)
        .map_err(|error| Error::unexpected("what inspect tells", error.to_string()))?;
    let bytes = &told["images"][0]["boot"]["bytes"];
    bytes.as_u64().ok_or_else(|| Error::unexpected("the boot pack of an optimized image", bytes.to_string()))
}
