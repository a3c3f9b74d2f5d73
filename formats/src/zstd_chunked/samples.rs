//! Tars, and what conversion makes of them, for the tests of reader and writer.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::compression::{FrameDecoder, FrameEncoder};
use crate::tar::fixture::{GNU, Head, Tar};
use crate::{BlobOffset, Digest};

/// Converts a tar that is pushed in slices.
pub fn convert(tar: &[u8], step: usize) -> (Vec<u8>, ConvertedLayer) {
    let mut planner = Planner::new(3).unwrap();
    let mut plans = Vec::new();
    tar.chunks(step).for_each(|slice| planner.push(slice, &mut |span| plans.push(span)).unwrap());
    let layer = planner.finish(&mut |span| plans.push(span)).unwrap();
    // Two compressors, each span on either: what threads would do.
    let mut compressors = [SpanCompressor::new(3).unwrap(), SpanCompressor::new(3).unwrap()];
    let mut packed: Vec<_> =
        plans.iter().enumerate().rev().map(|(n, plan)| compressors[n % 2].compress(plan).unwrap()).collect();
    packed.reverse();
    let mut writer = BlobWriter::new();
    let mut blob = Vec::new();
    for span in &packed {
        writer.push(span).unwrap();
        blob.extend_from_slice(&span.bytes);
    }
    assert_eq!(writer.len(), blob.len() as u64);
    let converted = writer.finish(layer, 3, &mut |piece| blob.extend(piece)).unwrap();
    assert_eq!((converted.digest, converted.len), (Digest::of(&blob), blob.len() as u64));
    (blob, converted)
}

/// A compressed document of a blob, decompressed.
pub fn document(blob: &[u8], at: &Position) -> Vec<u8> {
    let start = usize::try_from(at.offset.0).unwrap();
    let compressed = &blob[start..start + usize::try_from(at.len).unwrap()];
    let mut raw = vec![0; usize::try_from(at.raw_len).unwrap()];
    FrameDecoder::new().decode(compressed, &mut raw).unwrap();
    raw
}

/// A layer with something of everything.
pub fn sample() -> Tar {
    let noise: Vec<u8> = (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Tar::default()
        .dir("./")
        .dir("usr/")
        .file("usr/hello", b"hello\n")
        .file("usr/empty", b"")
        .file("usr/noise", &noise)
        .file("usr/zeros", &vec![0; 1 << 20])
        .link(b'1', "usr/again", "usr/hello")
        .link(b'2', "usr/link", "/usr/hello")
        .head(Head { name: b"dev", typeflag: b'3', device: (1, 3), uid: 7, gid: 8, ..Head::default() })
        .pax(&[("mtime", b"-1.25"), ("SCHILY.xattr.user.a", b"\xff"), ("path", "usr/ü".as_bytes())])
        .file("x", b"attributes")
        .extension(b'L', "long/".repeat(40).as_bytes())
        .head(Head { name: b"short", mtime: 5, magic: GNU, ..Head::default() })
        .end()
}

/// A tar by the `tar` crate: names, times and owners that need extensions among them.
pub fn foreign_tar() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-zé]{1,20}(/[a-z]{1,30}){0,8}";
    let member =
        (name, proptest::collection::vec(any::<u8>(), 0..3000), 0..4_u8, 0..4_000_000_u64, 0..1_u64 << 33);
    proptest::collection::vec(member, 0..12).prop_map(|members| {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (n, (name, content, kind, owner, mtime)) in members.into_iter().enumerate() {
            let mut header = ::tar::Header::new_gnu();
            header.set_mode(0o640);
            header.set_uid(owner);
            header.set_gid(owner / 2);
            header.set_mtime(mtime);
            let path = format!("{n}/{name}");
            match kind {
                0 => {
                    header.set_entry_type(::tar::EntryType::Symlink);
                    header.set_size(0);
                    builder.append_link(&mut header, &path, "some/target").unwrap();
                }
                _ => {
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, &path, content.as_slice()).unwrap();
                }
            }
        }
        builder.into_inner().unwrap()
    })
}

/// TOC and tar-split of a layer, to be changed and sealed again.
#[derive(Clone)]
pub struct Documents {
    pub toc: Value,
    pub lines: Vec<Value>,
}

impl Documents {
    pub fn of(blob: &[u8], layer: &ConvertedLayer) -> Self {
        let annotations = Annotations::parse(&layer.annotations).unwrap().unwrap();
        let text = String::from_utf8(document(blob, &annotations.tar_split.unwrap())).unwrap();
        Self {
            toc: serde_json::from_slice(&document(blob, &annotations.toc)).unwrap(),
            lines: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        }
    }

    /// Both compressed, one behind the other from `offset` of a blob on, and the annotations that name them.
    pub fn seal(&self, offset: u64) -> (Annotations, Vec<u8>, Vec<u8>) {
        let lines: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        let (tar_split, split_position) = pack(lines.as_bytes());
        let mut toc = self.toc.clone();
        if let Some(digest) = toc.get_mut("tarSplitDigest") {
            *digest = json!(Digest::of(&tar_split));
        }
        let (toc, position) = pack(toc.to_string().as_bytes());
        let position = Position { offset: BlobOffset(offset), ..position };
        let split_position = Position { offset: BlobOffset(offset + position.len), ..split_position };
        let annotations =
            Annotations { toc_digest: Digest::of(&toc), toc: position, tar_split: Some(split_position) };
        (annotations, toc, tar_split)
    }
}

/// A compressed document, and what a descriptor says of it.
pub fn pack(text: &[u8]) -> (Vec<u8>, Position) {
    let mut frame = Vec::new();
    FrameEncoder::new(3).unwrap().encode(text, &mut frame).unwrap();
    let position = Position { offset: BlobOffset(0), len: frame.len() as u64, raw_len: text.len() as u64 };
    (frame, position)
}
