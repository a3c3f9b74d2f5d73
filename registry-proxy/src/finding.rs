//! What `verify` finds: where it is, and what is there instead of what should be.
//!
//! Findings are collected, so that one fault does not hide another, and bounded, so that a blob that is wrong
//! from end to end is told in a page.

use std::fmt;

use jaunt_formats::{Digest, EntryPath};
use serde::Serialize;

/// Findings of one image, and of one layer, that are kept; of the rest, only the number is.
const LIMIT: usize = 100;
/// Characters of a value that are shown.
const VALUE_LIMIT: usize = 200;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The launch artifact: its subject, its tag, its launch index, its descriptors.
    Artifact,
    Signature,
    Span,
    /// The converted blob as a whole.
    Blob,
    /// The tar that the spans decode to.
    Tar,
    /// TOC, tar-split, footer, and the annotations that name them.
    Toc,
    SeekTable,
    /// The launch index's tree.
    Tree,
    /// The boot pack.
    Boot,
    /// The blob that was converted.
    Original,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub check: Check,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<usize>,
    /// Where in the blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What of the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    pub what: String,
}

impl Finding {
    pub fn new(check: Check, what: impl Into<String>) -> Self {
        let what = what.into();
        Self {
            check,
            image: None,
            layer: None,
            span: None,
            offset: None,
            path: None,
            field: None,
            expected: None,
            actual: None,
            what,
        }
    }

    pub fn in_span(self, number: usize, offset: u64) -> Self {
        Self { span: Some(number), offset: Some(offset), ..self }
    }

    pub fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    pub fn of_path(self, path: &[u8]) -> Self {
        Self { path: Some(format!("/{}", path.escape_ascii())), ..self }
    }

    pub fn of_entry(self, path: &EntryPath) -> Self {
        self.of_path(path.as_bytes())
    }

    pub fn of_field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    pub fn values(self, expected: impl ToString, actual: impl ToString) -> Self {
        let short = |value: String| match value.char_indices().nth(VALUE_LIMIT) {
            Some((end, _)) => format!("{}…", &value[..end]),
            None => value,
        };
        let (expected, actual) = (short(expected.to_string()), short(actual.to_string()));
        Self { expected: Some(expected), actual: Some(actual), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layer) = &self.layer {
            write!(f, "layer {layer}: ")?;
        }
        match (self.span, self.offset) {
            (Some(span), Some(offset)) => write!(f, "span {span} at blob offset {offset}: ")?,
            (None, Some(offset)) => write!(f, "blob offset {offset}: ")?,
            _ => {}
        }
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        if let Some(field) = self.field {
            write!(f, "{field}: ")?;
        }
        write!(f, "{}", self.what)?;
        match (&self.expected, &self.actual) {
            (Some(expected), Some(actual)) => write!(f, ": {actual}, not {expected}"),
            _ => Ok(()),
        }
    }
}

/// The findings so far.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    more: usize,
}

impl Findings {
    pub fn push(&mut self, finding: Finding) {
        if self.list.len() < LIMIT {
            self.list.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Takes another's up; those of a layer say so.
    pub fn append(&mut self, other: Self, layer: Option<Digest>) {
        self.more += other.more;
        other.list.into_iter().for_each(|finding| {
            self.push(Finding { layer: finding.layer.or(layer), ..finding });
        });
    }

    /// All of them are of this image.
    pub fn of_image(mut self, image: Digest) -> Self {
        self.list.iter_mut().for_each(|finding| finding.image = Some(image));
        self
    }

    pub fn kept(&self) -> &[Finding] {
        &self.list
    }

    /// Those that were not kept.
    pub fn more(&self) -> usize {
        self.more
    }

    pub fn count(&self) -> usize {
        self.list.len() + self.more
    }

    /// The first, and how many follow.
    pub fn into_first(self) -> Option<(Finding, usize)> {
        let more = self.count().saturating_sub(1);
        Some((self.list.into_iter().next()?, more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_bounded_and_the_rest_is_counted() {
        let mut of_layer = Findings::default();
        (0..LIMIT + 7).for_each(|span| of_layer.push(Finding::new(Check::Span, "bad").in_span(span, 5)));
        let mut all = Findings::default();
        all.push(Finding::new(Check::Artifact, "first"));
        all.append(of_layer, Some(Digest::of(b"layer")));
        assert_eq!((all.kept().len(), all.more(), all.count()), (LIMIT, 8, LIMIT + 8));
        let second = all.kept()[1].to_string();
        assert_eq!(second, format!("layer {}: span 0 at blob offset 5: bad", Digest::of(b"layer")));
    }
}
