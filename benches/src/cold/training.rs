//! Boot packs for what is measured: some starts are traced on fresh nodes, and a copy of the image gets a pack made of them.
//!
//! The image itself stays without one, so that both can take turns.

use std::path::PathBuf;
use std::thread;

use jaunt_tests::error::{Error, Result};
use jaunt_tests::process::run;

use super::line::Laid;
use super::touched::{self, Touched};
use super::{Bench, Case};
use crate::layerfs::roots::STREAMING;
use crate::learning;

/// How many starts a pack is made of.
const STARTS: usize = 3;

impl Bench<'_> {
    /// Copies an image with its launch artifact to [`Case::packed`], and makes the copy a boot pack of some starts over `laid`.
    pub fn pack(&self, case: &mut Case, laid: &Laid) -> Result<()> {
        let name = &case.subject.name;
        let copy = format!("{}/{}:latest", self.registry.host(), case.packed());
        self.proxy(&["copy", &case.subject.reference, &copy])?;
        let mut traces = Vec::new();
        for number in 1..=STARTS {
            self.progress.say(&format!("{name}: tracing start {number} of {STARTS}"));
            traces.push(self.trace(case, laid, &number.to_string(), false)?);
        }
        self.progress.say(&format!("{name}: tracing a start of which nothing is read ahead"));
        let exact = self.trace(case, laid, "exact", true)?;
        learning::optimize(self.scratch, self.binaries, self.registry, &traces, &copy)?;
        case.pack_bytes = Some(pack_bytes(&self.proxy(&["inspect", "--json", &copy])?)?);
        self.progress.say(&format!("{name}: compressing what starts touched"));
        let compressed = |trace| touched::compressed(trace, &case.tree);
        let (noted, exact) = thread::scope(|scope| {
            let exact = scope.spawn(|| compressed(&exact));
            let panicked = |_| Err(Error::unexpected("compressing", "panicked"));
            (compressed(&traces[0]), exact.join().unwrap_or_else(panicked))
        });
        case.touched = Some(Touched { noted_bytes: noted?, page_bytes: exact? });
        Ok(())
    }

    /// What a start on a fresh node touched, in a file; `exact` if nothing is to be read ahead.
    fn trace(&self, case: &Case, laid: &Laid, called: &str, exact: bool) -> Result<PathBuf> {
        let node = self.node(&[laid.host()], STREAMING)?;
        let run = || self.run(&node, case, laid, case.subject.repository());
        let ran = match node.jaunt.as_ref().filter(|_| exact) {
            Some(jaunt) => touched::without_read_ahead(&jaunt.run_dir(), run),
            None => run(),
        };
        let (_, mut container) = ran?;
        let to = self.scratch.dir("traces")?.join(format!("{}-{called}", case.subject.repository()));
        let reference = laid.reference(case.subject.repository());
        let to = learning::take_out(self.scratch, self.binaries, &node, &reference, to)?;
        container.stop()?;
        node.wipe()?;
        Ok(to)
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
