//! One converted layer, streamed once: every span, the tar they decode to, the blob, and what follows the spans.
//!
//! A bad span does not end the check: those behind it are checked, too. Only the tar cannot be had then, and the
//! entries are those that the TOC gives.

use std::collections::HashMap;
use std::io::{self, Read as _};

use jaunt_formats::compression::FrameDecoder;
use jaunt_formats::launch::LaunchLayer;
use jaunt_formats::seekable::Frame;
use jaunt_formats::tar::{Event, Scanner};
use jaunt_formats::{Digest, DigestScope, Entry, Span, SpanDigest, zstd_chunked};
use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

use super::tail::{self, Tail};
use crate::error::Error;
use crate::finding::{Check, Finding, Findings};
use crate::manifest::Descriptor;
use crate::place::Place;
use crate::stream::{self, BlobRead, BlobReader, StreamError, explain};

/// What checking a layer gave.
#[derive(Default)]
pub struct Checked {
    pub findings: Findings,
    /// As the tar has them, or else the TOC.
    pub entries: Option<Vec<Entry>>,
}

/// Reads a converted layer whole and checks all of it.
pub async fn check(place: &Place, layer: &LaunchLayer, descriptor: &Descriptor) -> Result<Checked, Error> {
    let digest = layer.converted.digest;
    let blob = match place.blob_stream(&digest).await {
        Ok(blob) => blob,
        Err(error) => {
            let mut checked = Checked::default();
            checked.findings.push(Finding::new(Check::Blob, format!("it cannot be read: {error}")));
            return Ok(checked);
        }
    };
    let (sender, reader) = stream::channel();
    let owned = layer.clone();
    let annotations: HashMap<_, _> = descriptor.annotations.clone().unwrap_or_default().into_iter().collect();
    let reading = tokio::task::spawn_blocking(move || Reader::new(reader, &owned).run(&annotations));
    let ((), checked) = tokio::join!(stream::pump(blob, layer.converted.len, sender), reading);
    Ok(checked?)
}

struct Reader<'l> {
    layer: &'l LaunchLayer,
    blob: BlobReader,
    findings: Findings,
    decoder: FrameDecoder,
    compressed: Vec<u8>,
    tar: Vec<u8>,
    /// Blob offset of the next byte.
    at: u64,
    /// The frames of good spans, by blob offset.
    frames: Vec<(u64, Frame)>,
}

impl<'l> Reader<'l> {
    fn new(blob: BlobReader, layer: &'l LaunchLayer) -> Self {
        let (compressed, tar, frames) = (Vec::new(), Vec::new(), Vec::new());
        let (findings, decoder) = (Findings::default(), FrameDecoder::new());
        Self { layer, blob, findings, decoder, compressed, tar, at: 0, frames }
    }

    fn run(mut self, annotations: &HashMap<String, String>) -> Checked {
        match self.check(annotations) {
            Ok(entries) => Checked { entries, findings: self.findings },
            Err(error) => {
                let finding = Finding::new(Check::Blob, format!("it cannot be read on: {error}"));
                self.findings.push(finding.at(self.at));
                Checked { entries: None, findings: self.findings }
            }
        }
    }

    fn check(&mut self, annotations: &HashMap<String, String>) -> Result<Option<Vec<Entry>>, StreamError> {
        let of_tar = self.spans()?;
        let mut bytes = Vec::new();
        let len = self.layer.converted.len.saturating_sub(self.at).min(2 * zstd_chunked::MAX_TOC_LEN);
        let tail = self.blob.by_ref().take(len).read_to_end(&mut bytes);
        tail.map_err(|error| explain("the blob", error))?;
        let tail = Tail { bytes: &bytes, start: self.at, blob_len: self.layer.converted.len };
        let of_toc = tail.entries(annotations, &mut self.findings);
        tail.check_seek_table(&self.frames, self.layer.tar_len, &mut self.findings);
        if let (Some(of_tar), Some(of_toc)) = (&of_tar, &of_toc) {
            tail::compare(of_tar, of_toc, &mut self.findings);
        }
        let (_, unused) = stream::channel();
        let read = std::mem::replace(&mut self.blob, unused).finish()?;
        let expected = &self.layer.converted;
        self.compare(Check::Blob, "the converted blob is", (expected.digest, expected.len), read);
        Ok(of_tar.or(of_toc))
    }

    /// Reads all spans; the entries of their tar, if every span is good.
    fn spans(&mut self) -> Result<Option<Vec<Entry>>, StreamError> {
        let (mut scanner, mut digest, mut entries) = (Scanner::new(), Sha256::new(), Vec::new());
        let mut whole = true;
        for (number, span) in self.layer.spans.iter().enumerate() {
            whole &= self.span(number, span)?;
            if !whole {
                continue;
            }
            digest.update(&self.tar);
            let scanned = scanner.push(&self.tar, &mut |event| {
                if let Event::Member(member) = event {
                    entries.push(member.entry);
                }
            });
            if let Err(error) = scanned {
                let finding = Finding::new(Check::Tar, error.to_string());
                self.findings.push(finding.in_span(number, span.blob_offset.0));
                whole = false;
            }
        }
        if !whole {
            return Ok(None);
        }
        let len = scanner.offset().0;
        let tar = BlobRead { digest: Digest::from_bytes(digest.finalize().into()), len };
        self.compare(Check::Tar, "the spans decode to", (self.layer.diff_id.0, self.layer.tar_len), tar);
        if let Err(error) = scanner.finish() {
            self.findings.push(Finding::new(Check::Tar, error.to_string()));
            return Ok(None);
        }
        Ok(Some(entries))
    }

    /// Reads and decodes one span; whether it is good.
    fn span(&mut self, number: usize, span: &Span) -> Result<bool, StreamError> {
        let offset = span.blob_offset.0;
        let of_span = |what: &str| Finding::new(Check::Span, what).in_span(number, offset);
        let mut good = true;
        if offset != self.at {
            self.findings.push(of_span("it does not follow the one before it").values(self.at, offset));
            // Spans never go back in an index that opens.
            let gap = self.blob.by_ref().take(offset.saturating_sub(self.at));
            let skipped =
                io::copy(&mut { gap }, &mut io::sink()).map_err(|error| explain("the blob", error))?;
            self.at += skipped;
            good = false;
        }
        self.compressed.resize(span.compressed_len as usize, 0);
        self.blob.read_exact(&mut self.compressed).map_err(|error| explain("the blob", error))?;
        self.at += u64::from(span.compressed_len);
        let actual = SpanDigest(blake3::hash(&self.compressed).into());
        if self.layer.scope != DigestScope::Compressed {
            self.findings.push(of_span("its digest is not of the compressed bytes"));
            return Ok(false);
        }
        if actual != span.digest {
            let values = (format!("{:?}", span.digest), format!("{actual:?}"));
            self.findings.push(of_span("its digest is").values(values.0, values.1));
            return Ok(false);
        }
        self.tar.resize(span.tar_len as usize, 0);
        if let Err(error) = self.decoder.decode(&self.compressed, &mut self.tar) {
            self.findings.push(of_span(&error.to_string()));
            return Ok(false);
        }
        self.note_frames(offset);
        Ok(good)
    }

    /// Remembers the frames of the span that was decoded.
    fn note_frames(&mut self, offset: u64) {
        let mut at = 0;
        while let Some(rest) = self.compressed.get(at..).filter(|rest| !rest.is_empty()) {
            let (Ok(len @ 1..), Ok(Some(decoded))) =
                (find_frame_compressed_size(rest), get_frame_content_size(rest))
            else {
                return;
            };
            if let (Ok(compressed), Ok(decompressed)) = (u32::try_from(len), u32::try_from(decoded)) {
                self.frames.push((offset + at as u64, Frame { compressed, decompressed }));
            }
            at += len;
        }
    }

    fn compare(&mut self, check: Check, what: &str, expected: (Digest, u64), actual: BlobRead) {
        if expected != (actual.digest, actual.len) {
            let text = |(digest, len): (Digest, u64)| format!("{digest} of {len} bytes");
            let finding = Finding::new(check, what);
            self.findings.push(finding.values(text(expected), text((actual.digest, actual.len))));
        }
    }
}
