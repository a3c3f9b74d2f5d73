use std::sync::LazyLock;

use base64::Engine as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::ConvertedLayer;
use super::super::layout::Position;
use super::super::samples::{Documents, convert, document, foreign_tar, pack, sample};
use super::*;
use crate::tar::{Event, Scanner};

fn read_documents(documents: &Documents) -> Result<Vec<Entry>, EntriesError> {
    let (annotations, toc, tar_split) = documents.seal(0);
    read_entries(&annotations, &toc, &tar_split)
}

fn scanned(tar: &[u8]) -> Vec<Entry> {
    let (mut scanner, mut entries) = (Scanner::new(), Vec::new());
    let mut take = |event: Event<'_>| {
        if let Event::Member(member) = event {
            entries.push(member.entry);
        }
    };
    scanner.push(tar, &mut take).unwrap();
    scanner.finish().unwrap();
    entries
}

fn read(blob: &[u8], layer: &ConvertedLayer) -> Vec<Entry> {
    let annotations = Annotations::parse(&layer.annotations).unwrap().unwrap();
    let part = |at: &Position| {
        let start = usize::try_from(at.offset.0).unwrap();
        &blob[start..start + usize::try_from(at.len).unwrap()]
    };
    read_entries(&annotations, part(&annotations.toc), part(annotations.tar_split.as_ref().unwrap())).unwrap()
}

#[test]
fn what_podman_writes_in_its_own_way_is_read_too() {
    let (blob, layer) = convert(&sample().bytes, 4096);
    let mut documents = Documents::of(&blob, &layer);
    assert_eq!(documents.toc["entries"][2]["modtime"], "2023-11-14T22:13:20Z");
    documents.toc["entries"][2]["modtime"] = json!("2023-11-15T00:13:20+02:00");
    assert_eq!(documents.toc["entries"][0]["modtime"], "1970-01-01T00:00:00Z");
    documents.toc["entries"][0].as_object_mut().unwrap().remove("modtime");
    documents.toc["entries"][1]["modtime"] = json!("0001-01-01T00:00:00Z");
    documents.toc["unknown"] = json!({"key": [1, 2]});
    let name = documents.lines[1]["name"].take();
    let name = STANDARD.encode(name.as_str().unwrap());
    documents.lines[1] = json!({"type": 1, "name_raw": name, "payload": null, "position": 1});
    let position = documents.lines.len();
    documents.lines.push(json!({"type": 2, "payload": "", "position": position}));
    assert_eq!(read_documents(&documents).unwrap(), layer.entries.to_vec().unwrap());

    let mut empty = Documents::of(&blob, &layer);
    empty.toc["entries"] = json!(null);
    empty.lines.clear();
    assert_eq!(read_documents(&empty).unwrap(), []);
}

#[test]
fn documents_that_disagree_are_refused() {
    let (blob, layer) = convert(&sample().bytes, 4096);
    let entry = |toc: &mut Value, name: &str, key: &str, value: Value| {
        let entries = toc["entries"].as_array_mut().unwrap();
        let found = entries.iter_mut().find(|entry| entry["name"] == name).unwrap();
        found[key] = value;
    };
    for (key, value, what) in [
        ("type", json!("dir"), "in type"),
        ("name", json!("usr/../../hello"), "in name"),
        ("mode", json!(0o4755), "in mode"),
        ("size", json!(7), "in size"),
        ("uid", json!(1), "in owner"),
        ("gid", json!(-1), "in owner"),
        ("modtime", json!("2023-11-14T22:13:21Z"), "in modification time"),
        ("modtime", json!("yesterday"), "in modification time"),
        ("devMajor", json!(1), "in device number"),
        ("linkName", json!("x"), "in link target"),
        ("xattrs", json!({"user.a": ""}), "in extended attributes"),
        ("digest", json!("sha256:x"), "malformed"),
    ] {
        let mut documents = Documents::of(&blob, &layer);
        entry(&mut documents.toc, "usr/hello", key, value);
        let error = read_documents(&documents).unwrap_err().to_string();
        assert!(error.contains(what), "{key}: {error}");
    }
}

#[test]
fn documents_that_are_no_layer_are_refused() {
    let (blob, layer) = convert(&sample().bytes, 4096);
    type Change = fn(&mut Documents);
    let changes: [(Change, &str); 14] = [
        (|d| drop(d.toc["entries"].as_array_mut().unwrap().pop()), "different numbers of entries"),
        (|d| drop(d.lines.pop().and(d.lines.pop()).and(d.lines.pop())), "different numbers of entries"),
        (|d| d.toc["entries"].as_array_mut().unwrap().swap(0, 1), "differ in"),
        (|d| d.toc["version"] = json!(2), "version 2"),
        (|d| drop(d.toc.as_object_mut().unwrap().remove("tarSplitDigest")), "no tar-split"),
        (|d| d.toc["entries"][0]["type"] = json!("chunk"), "a chunk belongs to"),
        (|d| d.toc["entries"] = json!("x"), "malformed"),
        (|d| d.lines[0]["position"] = json!(1), "line 0: its position"),
        (|d| d.lines[0]["payload"] = json!("AAAA"), "an entry without headers"),
        (|d| d.lines[0]["payload"] = json!("!"), "not base64"),
        (|d| d.lines[1]["name"] = json!("other"), "name is not that of its headers"),
        (|d| d.lines[1]["size"] = json!(4096), "size is not that of its headers"),
        (|d| d.lines[1]["type"] = json!(3), "unknown type"),
        (|d| d.lines[3] = json!({"type": 2, "payload": null, "position": 3}), "headers that no entry claims"),
    ];
    for (change, what) in changes {
        let mut documents = Documents::of(&blob, &layer);
        change(&mut documents);
        let error = read_documents(&documents).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn raw_bytes_that_reach_into_content_are_refused() {
    let (blob, layer) = convert(&sample().bytes, 4096);
    let mut documents = Documents::of(&blob, &layer);
    let hello = documents.lines.iter().position(|line| line["name"] == "usr/hello").unwrap();
    let headers = STANDARD.decode(documents.lines[hello - 1]["payload"].as_str().unwrap()).unwrap();
    documents.lines[hello - 1]["payload"] = json!(STANDARD.encode([&headers[..], b"he"].concat()));
    let error = read_documents(&documents).unwrap_err().to_string();
    assert!(error.contains("raw bytes where a file's content should be"), "{error}");
}

#[test]
fn documents_that_are_not_those_named_are_refused() {
    let (blob, layer) = convert(&sample().bytes, 4096);
    let annotations = Annotations::parse(&layer.annotations).unwrap().unwrap();
    let split = annotations.tar_split.unwrap();
    let part = |at: &Position| {
        let start = usize::try_from(at.offset.0).unwrap();
        blob[start..start + usize::try_from(at.len).unwrap()].to_vec()
    };
    let (toc, tar_split) = (part(&annotations.toc), part(&split));
    assert!(read_entries(&annotations, &toc, &tar_split).is_ok());
    let refused = |annotations: &Annotations, toc: &[u8], tar_split: &[u8]| {
        read_entries(annotations, toc, tar_split).unwrap_err().to_string()
    };
    assert!(refused(&annotations, &tar_split, &tar_split).contains("TOC has digest"));
    let other = pack(&document(&blob, &split)).0;
    assert_ne!(other, tar_split);
    assert!(refused(&annotations, &toc, &other).contains("tar-split has digest"));
    assert!(refused(&annotations, &toc, b"junk").contains("does not decompress"));
    let none = Annotations { tar_split: None, ..annotations.clone() };
    assert!(refused(&none, &toc, &tar_split).contains("no tar-split"));
    let huge = Position { raw_len: u64::MAX, ..split };
    let huge = Annotations { tar_split: Some(huge), ..annotations.clone() };
    assert!(refused(&huge, &toc, &tar_split).contains("larger than the limit"));
    let short = Position { raw_len: split.raw_len - 1, ..split };
    let short = Annotations { tar_split: Some(short), ..annotations };
    assert!(refused(&short, &toc, &tar_split).contains("does not decompress"));
}

proptest! {
    #[test]
    fn entries_are_those_that_scanning_the_tar_gives(tar in foreign_tar()) {
        let (blob, layer) = convert(&tar, 4096);
        prop_assert_eq!(read(&blob, &layer), scanned(&tar));
    }

    #[test]
    fn damaged_tar_splits_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        static DOCUMENTS: LazyLock<Documents> = LazyLock::new(|| {
            let (blob, layer) = convert(&sample().bytes, 4096);
            Documents::of(&blob, &layer)
        });
        let mut documents = DOCUMENTS.clone();
        let line = at.index(documents.lines.len());
        if let Some(payload) = documents.lines[line]["payload"].as_str() {
            let mut payload = STANDARD.decode(payload).unwrap();
            let at = at.index(payload.len());
            payload[at] ^= byte;
            documents.lines[line]["payload"] = json!(STANDARD.encode(payload));
        }
        let _ = read_documents(&documents);
    }
}
