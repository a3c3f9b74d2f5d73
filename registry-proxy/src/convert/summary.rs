//! What became of a whole repository: counted, with every reason once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Done;
use crate::console::Console;
use crate::error::Error;

/// Tags and reasons that are told; of more, the number. In JSON, each reference has its own.
const TOLD: usize = 20;
/// Tags that are named for one reason.
const NAMED: usize = 3;

/// The tags so far.
#[derive(Debug, Default)]
pub struct Summary {
    converted: usize,
    /// Nothing was to be done.
    done_before: usize,
    /// No image that could be started lazily.
    without: usize,
    /// Tag and error.
    failed: Vec<(String, String)>,
    /// What stays as it is, by the reason: in which tags.
    skipped: BTreeMap<String, Vec<String>>,
}

impl Summary {
    /// Adds a tag.
    pub fn add(&mut self, tag: &str, done: &Result<Done, Error>) {
        let done = match done {
            Ok(done) => done,
            Err(error) => return self.failed.push((tag.to_owned(), error.to_string())),
        };
        for skipped in &done.skipped {
            self.skipped.entry(skipped.reason.clone()).or_default().push(tag.to_owned());
        }
        match &done.failed {
            Some(error) => self.failed.push((tag.to_owned(), error.to_string())),
            None if done.images == 0 => self.without += 1,
            None if done.converted == 0 => self.done_before += 1,
            None => self.converted += 1,
        }
    }

    /// Tags with images that could not be converted.
    pub fn failed(&self) -> usize {
        self.failed.len()
    }

    /// In lines.
    pub fn tell(&self, console: &Console) {
        self.lines().iter().for_each(|line| console.line(line));
    }

    fn lines(&self) -> Vec<String> {
        let Self { converted, done_before, without, failed, skipped } = self;
        let all = converted + done_before + without + failed.len();
        let mut lines = vec![format!(
            "{all} {}: {converted} converted, {done_before} converted before, {without} with nothing to convert, \
             {} failed",
            if all == 1 { "tag" } else { "tags" },
            failed.len()
        )];
        lines.extend(failed.iter().take(TOLD).map(|(tag, error)| format!("  failed {tag}: {error}")));
        lines.extend(more(failed.len()));
        let skipped_lines = skipped.iter().take(TOLD).map(|(reason, tags)| {
            let named = tags[..tags.len().min(NAMED)].join(", ");
            let more = tags
                .len()
                .checked_sub(NAMED + 1)
                .map_or(String::new(), |more| format!(" and {} more", more + 1));
            let times = if tags.len() == 1 { "once".to_owned() } else { format!("{} times", tags.len()) };
            format!("  skipped {times}: {reason} ({named}{more})")
        });
        lines.extend(skipped_lines);
        lines.extend(more(skipped.len()));
        lines
    }

    /// For a program.
    pub fn json(&self) -> Value {
        let failed = self.failed.iter().map(|(tag, error)| json!({ "tag": tag, "error": error }));
        let skipped = self.skipped.iter().map(|(reason, tags)| json!({ "reason": reason, "tags": tags }));
        json!({
            "converted": self.converted,
            "converted_before": self.done_before,
            "nothing_to_convert": self.without,
            "failed": failed.collect::<Vec<_>>(),
            "skipped": skipped.collect::<Vec<_>>(),
        })
    }
}

fn more(all: usize) -> Option<String> {
    all.checked_sub(TOLD).filter(|more| *more > 0).map(|more| format!("  and {more} more"))
}

#[cfg(test)]
mod tests {
    use super::super::report::Totals;
    use super::*;
    use crate::image::Skipped;

    fn done(images: usize, converted: usize, reasons: &[&str]) -> Result<Done, Error> {
        let skipped = |reason: &&str| Skipped { digest: "d".to_owned(), reason: (*reason).to_owned() };
        Ok(Done {
            document: Value::Null,
            totals: Totals::default(),
            images,
            converted,
            skipped: reasons.iter().map(skipped).collect(),
            failed: None,
        })
    }

    #[test]
    fn every_tag_is_counted_once_and_every_reason_told_once() {
        let mut summary = Summary::default();
        (0..5).for_each(|n| summary.add(&format!("v{n}"), &done(1, 1, &["a windows image"])));
        summary.add("old", &done(2, 0, &["an attestation"]));
        summary.add("none", &done(0, 0, &["a windows image"]));
        summary.add("lost", &Err(Error::Referrers("t".to_owned())));
        let lines = [
            "8 tags: 5 converted, 1 converted before, 1 with nothing to convert, 1 failed",
            "  failed lost: tag t holds something else than a list of referrers",
            "  skipped 6 times: a windows image (v0, v1, v2 and 3 more)",
            "  skipped once: an attestation (old)",
        ];
        assert_eq!(summary.lines(), lines);
        assert_eq!(summary.json()["skipped"][0]["tags"].as_array().unwrap().len(), 6);
        (0..30).for_each(|n| summary.add(&format!("x{n}"), &Err(Error::Referrers("t".to_owned()))));
        assert_eq!(summary.lines().iter().filter(|line| line.starts_with("  failed")).count(), TOLD);
        assert!(summary.lines().contains(&"  and 11 more".to_owned()));
    }
}
