use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::super::samples::{convert, document, foreign_tar, sample};
use super::*;
use crate::compression::FrameDecoder;
use crate::tar::fixture::Tar;
use crate::zstd_chunked::{TocEntry, decode_toc};
use crate::{Content, EntryKind, seekable};

/// Decodes the blob span by span, each checked against its digest.
fn decode_spans(blob: &[u8], layer: &ConvertedLayer) -> Vec<u8> {
    let mut tar = Vec::new();
    for span in &layer.spans {
        let range = span.blob_range();
        let bytes = &blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert_eq!(span.digest, SpanDigest(blake3::hash(bytes).into()));
        assert_eq!(span.tar_offset.0, tar.len() as u64);
        let mut part = vec![0; span.tar_len as usize];
        FrameDecoder::new().decode(bytes, &mut part).unwrap();
        tar.extend_from_slice(&part);
    }
    tar
}

fn toc_of(blob: &[u8], layer: &ConvertedLayer) -> (Toc, Annotations) {
    let annotations = Annotations::parse(&layer.annotations).unwrap().unwrap();
    let start = usize::try_from(annotations.toc.offset.0).unwrap();
    let compressed = &blob[start..start + usize::try_from(annotations.toc.len).unwrap()];
    (decode_toc(compressed, &annotations.toc, annotations.toc_digest).unwrap(), annotations)
}

/// The content that a TOC says a file has, read chunk by chunk.
fn content(blob: &[u8], chunks: &[TocEntry]) -> Vec<u8> {
    let size = usize::try_from(chunks[0].size).unwrap();
    let mut content = Vec::new();
    for chunk in chunks.iter().filter(|_| size > 0) {
        let frame = &blob[usize::try_from(chunk.offset).unwrap()..usize::try_from(chunk.end_offset).unwrap()];
        let whole = zstd_safe::get_frame_content_size(frame).unwrap().unwrap();
        let mut decoded = vec![0; usize::try_from(whole).unwrap()];
        FrameDecoder::new().decode(frame, &mut decoded).unwrap();
        let len = if chunk.chunk_size > 0 { usize::try_from(chunk.chunk_size).unwrap() } else { size };
        assert_eq!(usize::try_from(chunk.chunk_offset).unwrap(), content.len());
        content.extend_from_slice(&decoded[..len]);
        if let Some(digest) = chunk.chunk_digest {
            assert_eq!(digest, Digest::of(&decoded[..len]));
        }
    }
    assert_eq!(chunks[0].digest, (size > 0).then(|| Digest::of(&content)));
    content
}

/// Rebuilds the tar as podman does: tar-split's raw pieces, and files out of the blob by the TOC.
fn rebuild(blob: &[u8], layer: &ConvertedLayer) -> Vec<u8> {
    let (toc, annotations) = toc_of(blob, layer);
    let tar_split = annotations.tar_split.unwrap();
    let start = usize::try_from(tar_split.offset.0).unwrap();
    let compressed = &blob[start..start + usize::try_from(tar_split.len).unwrap()];
    assert_eq!(toc.tar_split_digest, Some(Digest::of(compressed)));
    let mut files = toc.entries.chunk_by(|_, next| next.kind == "chunk");
    let mut tar = Vec::new();
    let text = String::from_utf8(document(blob, &tar_split)).unwrap();
    for (position, line) in text.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["position"], position);
        let payload = line["payload"].as_str().map(|text| STANDARD.decode(text).unwrap());
        if line["type"] == 2 {
            tar.extend_from_slice(&payload.unwrap());
            continue;
        }
        let chunks = files.next().unwrap();
        assert_eq!(line["name"], chunks[0].name);
        assert_eq!(line["size"].as_i64().unwrap_or(0), chunks[0].size);
        let content = content(blob, chunks);
        let mut crc = super::super::crc64::Crc64::new();
        crc.update(&content);
        assert_eq!(payload, (!content.is_empty()).then(|| crc.finish().to_be_bytes().to_vec()));
        tar.extend_from_slice(&content);
    }
    assert!(files.next().is_none());
    tar
}

/// Runs a tool on `input`; `None` when it is not installed.
fn tool(command: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{command:?} failed");
    Some(output.stdout)
}

#[test]
fn the_tar_comes_back_by_every_road() {
    let tar = sample().bytes;
    let (blob, layer) = convert(&tar, 10_000);
    assert_eq!(layer.obstacle, None);
    assert!(decode_spans(&blob, &layer) == tar);
    assert!(rebuild(&blob, &layer) == tar);
    match tool(&["zstd", "-dc"], &blob) {
        Some(output) => assert!(output == tar),
        None => eprintln!("skipped: zstd is not installed"),
    }
    for entry in &layer.entries.to_vec().unwrap() {
        if let EntryKind::Regular { size, content: Content::Contiguous(at) } = &entry.kind
            && entry.path.as_bytes() == b"usr/hello"
        {
            let start = usize::try_from(at.0).unwrap();
            assert_eq!(&tar[start..start + usize::try_from(*size).unwrap()], b"hello\n");
        }
    }
}

#[test]
fn libzstd_seeks_by_the_table() {
    let tar = sample().bytes;
    let (blob, layer) = convert(&tar, 10_000);
    let frames = seekable::parse(&blob).unwrap();
    let table = seekable::footer(&blob).unwrap().table_len();
    let compressed: u64 = frames.iter().map(|frame| u64::from(frame.compressed)).sum();
    assert_eq!(compressed + table, layer.len);
    let mut reader = zstd_safe::seekable::Seekable::create();
    reader.init_buff(&blob).unwrap();
    assert_eq!(reader.num_frames() as usize, frames.len());
    for offset in [0, 512, 100_000, tar.len() - 600] {
        let mut part = [0; 600];
        let len = reader.decompress(&mut part[..], offset as u64).unwrap();
        assert_eq!((len, &part[..]), (600, &tar[offset..offset + 600]));
    }
}

#[test]
fn the_footer_says_what_the_annotations_say() {
    let (blob, layer) = convert(&sample().bytes, 4096);
    let annotations = Annotations::parse(&layer.annotations).unwrap().unwrap();
    let end = blob.len() - usize::try_from(seekable::footer(&blob).unwrap().table_len()).unwrap();
    let footer = Footer::parse(blob[end - 64..end].try_into().unwrap()).unwrap();
    assert_eq!((footer.toc, Some(footer.tar_split)), (annotations.toc, annotations.tar_split));
    assert_eq!(document(&blob, &footer.toc).len() as u64, footer.toc.raw_len);
}

#[test]
fn a_layer_with_a_path_twice_is_plain_seekable_zstd() {
    let tar = Tar::default().file("f", b"one").file("f", b"two").end().bytes;
    let (blob, layer) = convert(&tar, 512);
    assert_eq!(layer.obstacle, Some(Obstacle::Duplicate));
    assert!(layer.annotations.is_empty());
    assert!(decode_spans(&blob, &layer) == tar);
    let frames = seekable::parse(&blob).unwrap();
    assert!(frames.iter().all(|frame| frame.decompressed > 0));
}

#[test]
fn an_empty_layer_is_a_valid_blob() {
    for tar in [vec![], vec![0; 1024]] {
        let (blob, layer) = convert(&tar, 512);
        assert_eq!((layer.tar_len, layer.entries.len()), (tar.len() as u64, 0));
        assert!(blob.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
        assert_eq!(decode_spans(&blob, &layer), tar);
        assert_eq!(tool(&["zstd", "-dc"], &blob).unwrap_or_else(|| tar.clone()), tar);
    }
}

/// Whatever changes these bytes must also change [`FORMAT_RECIPE`], or the encoder's version.
#[test]
fn the_blob_of_a_layer_never_changes() {
    let (_, layer) = convert(&sample().bytes, 4096);
    assert_eq!(zstd_safe::version_string(), "1.5.7");
    assert_eq!(
        layer.digest.to_string(),
        "sha256:2f7963a87f3ed93f4022f4774e3c6bd3d0e41c571caea2a1ff0bb10408f89578"
    );
}

#[test]
fn hostile_tocs_are_refused() {
    let (blob, layer) = convert(&sample().bytes, 4096);
    let (_, annotations) = toc_of(&blob, &layer);
    let start = usize::try_from(annotations.toc.offset.0).unwrap();
    let good = &blob[start..start + usize::try_from(annotations.toc.len).unwrap()];
    let refused = |bytes: &[u8], raw_len| {
        let position = Position { raw_len, ..annotations.toc };
        decode_toc(bytes, &position, Digest::of(bytes)).unwrap_err().to_string()
    };
    assert!(refused(good, u64::MAX).contains("larger than the limit"));
    assert!(refused(good, 10).contains("does not decompress"));
    assert!(refused(b"junk", 10).contains("does not decompress"));
    assert!(decode_toc(b"junk", &annotations.toc, annotations.toc_digest).is_err());
    let json = |text: &[u8]| {
        let mut frame = Vec::new();
        FrameEncoder::new(3).unwrap().encode(text, &mut frame).unwrap();
        refused(&frame, text.len() as u64)
    };
    assert!(json(b"{").contains("malformed"));
    assert!(json(b"{\"version\":2,\"entries\":[]}").contains("version 2"));
}

proptest! {
    #[test]
    fn any_tar_comes_back(tar in foreign_tar(), step in 1..5000_usize) {
        let (blob, layer) = convert(&tar, step);
        prop_assert_eq!(layer.obstacle, None);
        prop_assert!(decode_spans(&blob, &layer) == tar);
        prop_assert!(rebuild(&blob, &layer) == tar);
        prop_assert_eq!(layer.diff_id.0, Digest::of(&tar));
        prop_assert!(convert(&tar, usize::MAX).0 == blob);
    }

    #[test]
    fn entries_agree_with_another_reader(tar in foreign_tar()) {
        let (_, layer) = convert(&tar, 1000);
        let mut archive = ::tar::Archive::new(tar.as_slice());
        let mut theirs = archive.entries().unwrap();
        for ours in &layer.entries.to_vec().unwrap() {
            let theirs = theirs.next().unwrap().unwrap();
            prop_assert_eq!(ours.path.as_bytes(), &*theirs.path_bytes());
            prop_assert_eq!(u64::from(ours.uid), theirs.header().uid().unwrap());
            prop_assert_eq!(u64::from(ours.gid), theirs.header().gid().unwrap());
            prop_assert_eq!(ours.mode, theirs.header().mode().unwrap());
            prop_assert_eq!(ours.mtime.seconds.unsigned_abs(), theirs.header().mtime().unwrap());
            match &ours.kind {
                EntryKind::Regular { size, content: Content::Contiguous(at) } => {
                    prop_assert_eq!((*size, at.0), (theirs.size(), theirs.raw_file_position()));
                }
                EntryKind::Symlink { target } => prop_assert_eq!(&**target, &*theirs.link_name_bytes().unwrap()),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert!(theirs.next().is_none());
    }
}
