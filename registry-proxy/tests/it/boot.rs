//! Boot packs that nobody has traced: what an image's own command needs, followed as the kernel and the dynamic linker follow it.

use std::collections::BTreeMap;

use jaunt_formats::Digest;
use serde_json::{Value, json};

use crate::support::{Layer, Registry, noise};

/// A program or library, of `len` bytes in all. Code is what lies between its first page and its last.
struct Elf<'e> {
    interpreter: Option<&'e str>,
    needed: &'e [&'e str],
    runpath: Option<&'e str>,
    len: usize,
}

const PAGE: usize = 4096;

impl Elf<'_> {
    /// Three segments: tables, code, data with the dynamic section. Addresses are offsets.
    fn bytes(&self, seed: u64) -> Vec<u8> {
        let mut file = noise(self.len, seed);
        let mut strings = vec![0];
        let mut string = |text: &str| {
            let at = strings.len() as u64;
            strings.extend([text.as_bytes(), b"\0"].concat());
            at
        };
        let mut dynamic: Vec<(u64, u64)> = self.needed.iter().map(|name| (1, string(name))).collect();
        dynamic.extend(self.runpath.map(|path| (29, string(path))));
        let (tables, data) = (0x400_u64, (self.len - PAGE) as u64);
        dynamic.extend([(5, tables), (10, strings.len() as u64), (0, 0)]);
        let dynamic: Vec<u8> = dynamic
            .iter()
            .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
            .collect();
        let mut segments = vec![
            (1_u32, 4_u32, 0, PAGE as u64),
            (1, 5, PAGE as u64, data - PAGE as u64),
            (1, 6, data, PAGE as u64),
            (2, 6, data, dynamic.len() as u64),
        ];
        let interpreter = self.interpreter.map(|path| [path.as_bytes(), b"\0"].concat()).unwrap_or_default();
        if !interpreter.is_empty() {
            segments.push((3, 4, 0x300, interpreter.len() as u64));
        }
        let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
        for word in [0_u64, 64, 0] {
            head.extend(word.to_le_bytes());
        }
        head.extend([0; 4]);
        for half in [64_u16, 56, u16::try_from(segments.len()).unwrap(), 64, 0, 0] {
            head.extend(half.to_le_bytes());
        }
        for (kind, flags, at, len) in segments {
            head.extend([kind.to_le_bytes(), flags.to_le_bytes()].concat());
            for word in [at, at, at, len, len, 4096] {
                head.extend(word.to_le_bytes());
            }
        }
        for (at, bytes) in [(0, head), (0x300, interpreter), (0x400, strings), (self.len - PAGE, dynamic)] {
            file[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        file
    }
}

fn library(needed: &[&str], len: usize, seed: u64) -> Vec<u8> {
    Elf { interpreter: None, needed, runpath: None, len }.bytes(seed)
}

fn program(needed: &[&str], runpath: Option<&str>, len: usize, seed: u64) -> Vec<u8> {
    Elf { interpreter: Some("/lib64/ld.so"), needed, runpath, len }.bytes(seed)
}

enum Node {
    File(Vec<u8>),
    Link(&'static str),
}

fn tar(nodes: &BTreeMap<&'static str, Node>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, node) in nodes {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        match node {
            Node::File(bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, &bytes[..]).unwrap();
            }
            Node::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

/// Everything but `unused` is what the command needs.
fn nodes() -> BTreeMap<&'static str, Node> {
    let file = |len: usize, seed| Node::File(noise(len, seed));
    BTreeMap::from([
        ("bin", Node::Link("usr/bin")),
        ("etc/app.conf", file(700, 1)),
        ("etc/group", file(300, 2)),
        ("etc/ld.so.cache", file(5000, 3)),
        ("etc/passwd", file(400, 4)),
        ("lib64/ld.so", Node::Link("../usr/lib/arch/ld-2.so")),
        (
            "opt/app/bin/app",
            Node::File(program(&["liba.so", "libb.so", "gone.so"], Some("$ORIGIN/../lib"), 6 << 20, 5)),
        ),
        ("opt/app/lib/liba.so", Node::File(library(&["libc.so"], 20_000, 6))),
        ("srv/start", Node::File(b"#!/usr/bin/env app\n".to_vec())),
        ("usr/bin/app", Node::Link("/opt/app/bin/app")),
        ("usr/bin/env", Node::File(program(&["libc.so"], None, 30_000, 7))),
        ("usr/bin/unused", Node::File(program(&["unused.so"], None, 40_000, 8))),
        ("usr/lib/arch/ld-2.so", Node::File(library(&[], 50_000, 9))),
        ("usr/lib/arch/libb.so", Node::File(library(&["libb.so", "liba.so", "libc.so"], 60_000, 10))),
        ("usr/lib/arch/libc.so", Node::File(library(&["ld-2.so"], 70_000, 11))),
        ("usr/lib/arch/unused.so", Node::File(library(&[], 80_000, 12))),
    ])
}

/// Bytes of what is needed; of the large program its tables and its data, to 1 MiB.
fn needed() -> u64 {
    let lens = nodes().into_iter().map(|(path, node)| match node {
        Node::File(_) if path.contains("unused") => 0,
        Node::File(_) if path == "opt/app/bin/app" => 2 << 20,
        Node::File(bytes) => bytes.len() as u64,
        Node::Link(_) => 0,
    });
    lens.sum()
}

fn command() -> Value {
    json!({ "Entrypoint": ["./start"], "Cmd": ["-v", "/etc/app.conf"], "WorkingDir": "/srv",
            "Env": ["PATH=/nowhere:/bin", "LD_LIBRARY_PATH=/nowhere"] })
}

/// Pushes an image that runs `command`.
fn push(registry: &Registry, tag: &str, nodes: &BTreeMap<&'static str, Node>, command: &Value) -> String {
    let layer = Layer::gzip(&tar(nodes));
    let mut manifest = registry.image("app", &[layer], "linux");
    let config = registry.blob("app", manifest["config"]["digest"].as_str().unwrap());
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["config"] = command.clone();
    let config = serde_json::to_vec(&config).unwrap();
    manifest["config"]["size"] = json!(config.len());
    manifest["config"]["digest"] = json!(registry.push_blob("app", config));
    registry.push_manifest("app", tag, &manifest);
    registry.reference(&format!("app:{tag}"))
}

fn pack(registry: &Registry, reference: &str) -> Value {
    registry.run(&["inspect", "--json", reference]).json()["images"][0]["boot"].clone()
}

#[test]
fn an_image_is_converted_with_a_pack_of_what_its_command_needs() {
    let Some(registry) = Registry::start() else { return };
    let reference = push(&registry, "v1", &nodes(), &command());
    let run = registry.run(&["convert", &reference]);
    assert!(run.succeeded().stdout.contains("that its command needs"), "{}", run.stdout);
    let made = pack(&registry, &reference);
    assert_eq!(made["content_bytes"], needed(), "{made}");
    registry.run(&["verify", &reference]).succeeded();

    // What of it is taken away comes again, and what one does not want one does not get.
    registry.run(&["optimize", "--drop", &reference]).succeeded();
    assert_eq!(pack(&registry, &reference), Value::Null);
    registry.run(&["optimize", "--foresee", &reference]).succeeded();
    let again = pack(&registry, &reference);
    assert_eq!([&again["content_bytes"], &again["traces"]], [&made["content_bytes"], &json!([])]);
    assert_ne!(again["recipe"], made["recipe"], "what is asked for is compressed harder");
    let other = push(&registry, "v2", &nodes(), &json!({ "Cmd": ["/bin/unused"] }));
    registry.run(&["convert", "--no-boot-pack", &other]).succeeded();
    assert_eq!(pack(&registry, &other), Value::Null);

    // A tag that moves to the converted image keeps the pack, and so does another recipe.
    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    assert_eq!(pack(&registry, &reference)["content_bytes"], needed());
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn another_recipe_keeps_what_was_in_the_pack_before() {
    let Some(registry) = Registry::start() else { return };
    let reference = push(&registry, "v1", &nodes(), &command());
    registry.run(&["convert", "--no-boot-pack", &reference]).succeeded();
    // Not what the command needs: what a start touched.
    let trace = tempfile::NamedTempFile::new().unwrap();
    let index = Digest::of(b"any");
    let lines = [
        json!({ "jauntTrace": 1, "image": "app", "index": index, "prefix": 1, "startedMs": 0, "readyMs": 0, "settled": true }),
        json!({ "path": "usr/bin/unused", "offset": 0, "len": 40_000, "ms": 1 }),
    ];
    std::fs::write(trace.path(), lines.map(|line| line.to_string()).join("\n")).unwrap();
    registry.run(&["optimize", "--trace", trace.path().to_str().unwrap(), &reference]).succeeded();
    assert_eq!(pack(&registry, &reference)["content_bytes"], 40_000);
    let run = registry.run(&["convert", "--level", "4", "--no-boot-pack", &reference]);
    assert!(run.succeeded().stdout.contains("that was learnt before"), "{}", run.stdout);
    assert_eq!(pack(&registry, &reference)["content_bytes"], 40_000);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn what_no_kernel_would_run_costs_an_image_its_pack_and_nothing_else() {
    let Some(registry) = Registry::start() else { return };
    let commands = [
        json!({}),
        json!("a string"),
        json!({ "Entrypoint": "not a list" }),
        json!({ "Cmd": ["", "/", "..", "/loop", "/etc", "\u{0}", "/gone"] }),
    ];
    let mut nodes = nodes();
    nodes.insert("loop", Node::Link("loop"));
    for (at, command) in commands.iter().enumerate() {
        let reference = push(&registry, &format!("none{at}"), &nodes, command);
        registry.run(&["convert", &reference]).succeeded();
        assert_eq!(pack(&registry, &reference), Value::Null, "{command}");
        let run = registry.run(&["optimize", "--foresee", &reference]);
        assert!(run.failed().contains("names no program that is in it"), "{}", run.stderr);
    }
    // One that names itself, and its own directory, without end.
    let origins = "$ORIGIN/".repeat(500);
    let endless = program(&["endless"; 200], Some(&origins), 60_000, 13);
    nodes.insert("opt/endless", Node::File(endless));
    let reference = push(&registry, "endless", &nodes, &json!({ "Cmd": ["/opt/endless"] }));
    registry.run(&["convert", &reference]).succeeded();
    registry.run(&["verify", &reference]).succeeded();
    // Headers and tables that point anywhere: as much as makes sense is followed.
    let sound = program(&["libc.so"], None, 30_000, 7);
    for at in
        (0..64 + 5 * 56).chain(0x400..0x410).chain(sound.len() - PAGE..sound.len() - PAGE + 64).step_by(8)
    {
        let mut damaged = sound.clone();
        damaged[at..at + 8].fill(0xff);
        nodes.insert(Box::leak(format!("damaged/{at:05}").into_boxed_str()), Node::File(damaged));
    }
    let words: Vec<_> =
        nodes.keys().filter(|path| path.starts_with("damaged/")).map(|path| format!("/{path}")).collect();
    assert!(words.len() > 40);
    for (at, words) in words.chunks(40).enumerate() {
        let reference = push(&registry, &format!("damaged{at}"), &nodes, &json!({ "Entrypoint": words }));
        registry.run(&["convert", &reference]).succeeded();
        registry.run(&["verify", &reference]).succeeded();
        assert!(pack(&registry, &reference)["content_bytes"].as_u64().unwrap() > 30_000);
    }
}
