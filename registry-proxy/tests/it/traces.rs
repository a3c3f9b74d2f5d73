//! Traces that nodes left beside an image: gathered as far as they are sound, told, and deleted.

use jaunt_formats::Digest;
use jaunt_formats::boot::{Extent, TablePlace, trace_manifest};
use jaunt_formats::launch::{LaunchIndex, unpack};
use jaunt_formats::media_type::{BOOT_TABLE, LAUNCH_BOOT_PACK, LAUNCH_INDEX, LAUNCH_TRACE};
use serde_json::{Value, json};

use crate::support::{Layer, OCI_INDEX, OCI_MANIFEST, Registry, Run, noise, run, tar};

const LEN: usize = 40_000;
const FILES: [&str; 4] = ["app/always", "app/once", "app/never", "app/twice"];

fn image(registry: &Registry) -> (String, Digest) {
    let files: Vec<_> = FILES.iter().zip(1..).map(|(path, seed)| (*path, noise(LEN, seed))).collect();
    let files: Vec<_> = files.iter().map(|(path, content)| (*path, &content[..])).collect();
    let digest = registry.push_image("app", "v1", &[Layer::gzip(&tar(&files))]);
    let reference = registry.reference("app:v1");
    registry.run(&["convert", &reference]).succeeded();
    (reference, digest)
}

/// The text of a trace; `ready_ms` tells it from others.
fn trace(ready_ms: u64, paths: &[&str]) -> String {
    let index = Digest::of(b"any");
    let head = json!({ "jauntTrace": 1, "image": "app", "index": index, "prefix": 1, "startedMs": 0,
                       "readyMs": ready_ms, "settled": true });
    let touches = paths.iter().map(|path| json!({ "path": path, "offset": 0, "len": LEN, "ms": 1 }));
    let lines: Vec<String> = [head].into_iter().chain(touches).map(|line| line.to_string()).collect();
    lines.join("\n")
}

/// Leaves artifacts beside an image as nodes do, in a registry without the referrers API; their digests.
fn leave(registry: &Registry, subject: &Digest, manifests: &[Value]) -> Vec<Digest> {
    registry.push_blob("app", b"{}".to_vec());
    let push = |manifest: &Value| {
        let name = Digest::of(&serde_json::to_vec(manifest).unwrap()).to_string();
        registry.push_manifest("app", &name, manifest)
    };
    let digests: Vec<Digest> = manifests.iter().map(push).collect();
    let tag = format!("sha256-{}", subject.hex());
    let mut list = registry.manifest("app", &tag).unwrap();
    let listed = digests.iter().map(|digest| {
        json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "artifactType": LAUNCH_TRACE })
    });
    list["manifests"].as_array_mut().unwrap().extend(listed);
    registry.push_manifest("app", &tag, &list);
    digests
}

fn artifact(registry: &Registry, subject: &Digest, text: &str) -> Value {
    registry.push_blob("app", text.as_bytes().to_vec());
    serde_json::from_slice(&trace_manifest((OCI_MANIFEST, *subject, 1), text.as_bytes())).unwrap()
}

fn pack(reference: &str) -> Value {
    run(&["inspect", "--json", reference]).json()["images"][0]["boot"].clone()
}

/// Traces and other artifacts that a list of referrers names.
fn listed(registry: &Registry, subject: &Digest) -> (usize, usize) {
    let list = registry.manifest("app", &format!("sha256-{}", subject.hex()));
    let list = list.map(|list| list["manifests"].as_array().unwrap().clone()).unwrap_or_default();
    let traces = list.iter().filter(|one| one["artifactType"] == LAUNCH_TRACE).count();
    (traces, list.len() - traces)
}

#[test]
fn traces_that_nodes_left_are_merged_told_and_deleted() {
    let Some(registry) = Registry::start() else { return };
    let (reference, subject) = image(&registry);
    let none = registry.run(&["optimize", "--gather", &reference]);
    assert!(none.succeeded().stdout.contains("nobody left a trace"), "{}", none.stdout);

    let of = |text: &str| artifact(&registry, &subject, text);
    let starts: [&[&str]; 3] =
        [&["app/always", "app/once"], &["app/always", "app/twice"], &["app/always", "app/twice"]];
    let texts: Vec<String> = (1..).zip(starts).map(|(ready, paths)| trace(ready, paths)).collect();
    let sound: Vec<Value> = texts.iter().map(|text| of(text)).collect();
    let with = |key: &str, value: Value| {
        let mut changed = of(&trace(10, &["app/always"]));
        changed[key] = value;
        changed
    };
    let mut again = of(&texts[0]);
    again["annotations"] = json!({ "a": "b" });
    let mut huge = of(&trace(11, &["app/always"]));
    huge["layers"][0]["size"] = json!(1_u64 << 40);
    let bad = [
        (of("no trace at all"), "line 1"),
        (of(&trace(12, &[])), "touches nothing"),
        (of(&trace(14, &["app/always"; 27_000])), "touches more than"),
        (of(&trace(13, &["gone", "app/always", "../etc/passwd"])), "2 of its 3 files are not in the image"),
        (
            with("subject", json!({ "mediaType": OCI_MANIFEST, "digest": Digest::of(b"x"), "size": 1 })),
            "another image",
        ),
        (with("artifactType", json!("application/x")), "another type"),
        (with("layers", json!([])), "0 layers"),
        (huge, "more than"),
    ];
    // The latest count, so the copy is the one that does, and what it is a copy of does not.
    let all: Vec<Value> =
        sound.iter().chain(bad.iter().map(|(bad, _)| bad)).chain([&again]).cloned().collect();
    let digests = leave(&registry, &subject, &all);
    leave(&registry, &subject, &[]);

    let before = registry.manifest("app", &format!("sha256-{}.jaunt", subject.hex()));
    let told = registry.run(&["optimize", "--gather", "--dry-run", "--json", &reference]).json();
    assert_eq!(registry.manifest("app", &format!("sha256-{}.jaunt", subject.hex())), before);
    let gathered = &told["images"][0]["gathered"];
    assert_eq!(gathered["used"].as_array().unwrap().len(), 3, "{gathered}");
    let why = |digest: &Digest| {
        let refused = gathered["refused"].as_array().unwrap().iter();
        let found = refused.clone().find(|one| one["artifact"] == json!(digest));
        found.unwrap_or_else(|| panic!("{gathered}"))["why"].as_str().unwrap().to_owned()
    };
    assert!(why(&digests[0]).contains("the same trace"));
    for ((_, words), digest) in bad.iter().zip(&digests[3..]) {
        assert!(why(digest).contains(words), "{words}: {}", why(digest));
    }

    registry.run(&["optimize", "--gather", &reference]).succeeded();
    assert_eq!(pack(&reference)["content_bytes"], 2 * LEN, "what most starts touched");
    assert_eq!(pack(&reference)["traces"].as_array().unwrap().len(), 3);
    assert_eq!(listed(&registry, &subject), (all.len(), 1));
    let run = registry.run(&["optimize", "--gather", "--consume", &reference]);
    assert!(run.succeeded().stdout.contains("unchanged"), "{}", run.stdout);
    assert_eq!(listed(&registry, &subject), (0, 1), "the launch artifact alone");
    assert!(digests.iter().all(|digest| registry.manifest("app", &digest.to_string()).is_none()));
    registry.run(&["verify", &reference]).succeeded();
}

/// What an image's pack holds, in its order, and where some files of the image are.
fn extents(registry: &Registry, subject: &Digest, paths: &[&str]) -> (Vec<Extent>, Vec<Extent>) {
    let artifact = registry.manifest("app", &format!("sha256-{}.jaunt", subject.hex())).unwrap();
    let blob = |media_type: &str| {
        let layers = artifact["layers"].as_array().unwrap().iter();
        let found = layers.clone().find(|layer| layer["mediaType"] == media_type).unwrap();
        (found.clone(), registry.blob("app", found["digest"].as_str().unwrap()))
    };
    let (described, pack) = blob(LAUNCH_BOOT_PACK);
    let table: TablePlace = described["annotations"][BOOT_TABLE].as_str().unwrap().parse().unwrap();
    let index = LaunchIndex::open(unpack(&blob(LAUNCH_INDEX).1).unwrap()).unwrap();
    let view = index.view(1).unwrap();
    let extent = |path: &&str| {
        let child = |dir, name: &str| view.lookup(dir, name.as_bytes()).unwrap().unwrap();
        let content = index.content(path.split('/').fold(view.root().unwrap(), child)).unwrap();
        let [part] = &content.extents[..] else { panic!("{path}") };
        Extent { layer: 0, tar_offset: part.tar_offset, len: u32::try_from(part.len).unwrap() }
    };
    // A frame ends within a file.
    let mut held: Vec<Extent> = Vec::new();
    for next in table.open(&pack[..table.len()]).unwrap().extents {
        match held.last_mut() {
            Some(last) if last.tar_range().end == next.tar_offset.0 => last.len += next.len,
            _ => held.push(next),
        }
    }
    (held, paths.iter().map(extent).collect())
}

#[test]
fn traces_by_hand_make_a_pack_of_what_most_starts_touched_and_nothing_else_in_their_order() {
    let Some(registry) = Registry::start() else { return };
    let (reference, subject) = image(&registry);
    let starts: [&[&str]; 3] =
        [&["app/twice", "app/always"], &["app/twice", "app/once", "app/always"], &["app/always"]];
    by_hand(&registry, &reference, &starts).succeeded();
    let (held, files) = extents(&registry, &subject, &["app/twice", "app/always"]);
    assert_eq!(held, files);
    assert!(files[0].tar_offset > files[1].tar_offset, "the layer has them the other way round");
    registry.run(&["verify", &reference]).succeeded();
}

/// Makes a pack of traces by hand: one for each list of files.
fn by_hand(registry: &Registry, reference: &str, starts: &[&[&str]]) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let mut words = vec!["optimize".to_owned()];
    for (number, paths) in (1..).zip(starts) {
        let file = directory.path().join(number.to_string());
        std::fs::write(&file, trace(number, paths)).unwrap();
        words.extend(["--trace".to_owned(), file.to_str().unwrap().to_owned()]);
    }
    words.push(reference.to_owned());
    registry.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn traces_of_another_image_are_refused_and_the_pack_stays() {
    let Some(registry) = Registry::start() else { return };
    let (reference, subject) = image(&registry);
    by_hand(&registry, &reference, &[&["app/always"]]).succeeded();
    let tag = format!("sha256-{}.jaunt", subject.hex());
    let state = || (registry.manifest("app", &tag), registry.tags("app"), registry.blob_count());
    let before = state();
    let cases: [(&[&[&str]], &str); 2] = [
        (
            &[&["etc/other", "bin/other"], &["bin/other"]],
            "2 of the 2 files that they name are not in the image",
        ),
        (&[&["app/once"], &["app/never"], &["app/twice"]], "nothing of the others was touched by half"),
    ];
    for (starts, words) in cases {
        let run = by_hand(&registry, &reference, starts);
        let told = run.failed();
        assert!(told.contains(words) && told.contains(&subject.to_string()), "{told}");
        assert_eq!(state(), before, "{starts:?}");
    }
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn what_was_learnt_counts_as_one_start_more_when_new_traces_are_gathered() {
    let Some(registry) = Registry::start() else { return };
    let (reference, subject) = image(&registry);
    let tag = format!("sha256-{}.jaunt", subject.hex());
    let published = || registry.manifest("app", &tag).unwrap();
    let leave_traces = |numbers: std::ops::Range<u64>, paths: &[&str]| {
        let traces: Vec<Value> =
            numbers.map(|ready| artifact(&registry, &subject, &trace(ready, paths))).collect();
        leave(&registry, &subject, &traces);
    };
    let gather = |more: &[&str]| {
        let run = registry.run(&[&["optimize", "--gather"][..], more, &[reference.as_str()]].concat());
        run.succeeded();
        run.stdout
    };
    let held = || pack(&reference)["content_bytes"].clone();
    leave_traces(0..3, &["app/once", "app/always"]);
    gather(&["--consume"]);
    assert_eq!(held(), 2 * LEN);

    // Another night has one start, which does without something.
    leave_traces(3..4, &["app/twice", "app/always"]);
    let told = gather(&[]);
    assert!(told.contains("counts as one start more"), "{told}");
    assert_eq!(held(), 3 * LEN, "three starts were not forgotten for one");
    assert_eq!(pack(&reference)["traces"].as_array().unwrap().len(), 2, "the trace, and the pack before");

    // Who gathers the same again, or nothing, changes nothing.
    let before = published();
    let again: [&[&str]; 2] = [&[], &["--consume"]];
    for more in again {
        let told = gather(more);
        assert!(told.contains("unchanged"), "{told}");
        assert_eq!(published(), before);
    }
    assert_eq!(listed(&registry, &subject), (0, 1));
    let told = gather(&["--consume"]);
    assert!(told.contains("nobody left a trace"), "{told}");
    assert_eq!(published(), before);

    // Several that do without it outvote what was learnt.
    leave_traces(4..7, &["app/always"]);
    gather(&["--consume"]);
    assert_eq!(held(), LEN);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn a_page_that_no_start_touches_any_more_leaves_the_pack() {
    let Some(registry) = Registry::start() else { return };
    let (reference, subject) = image(&registry);
    let leave_traces = |first: u64, paths: &[&str]| {
        let traces: Vec<Value> =
            (first..first + 2).map(|ready| artifact(&registry, &subject, &trace(ready, paths))).collect();
        leave(&registry, &subject, &traces);
    };
    leave_traces(1, &["app/always", "app/never", "app/once"]);
    registry.run(&["optimize", "--gather", "--consume", &reference]).succeeded();
    assert_eq!(pack(&reference)["content_bytes"], 3 * LEN);
    let before = pack(&reference)["digest"].clone();
    leave_traces(3, &["app/always"]);
    registry.run(&["optimize", "--gather", "--from", &reference, &reference]).succeeded();
    assert_eq!(pack(&reference)["content_bytes"], LEN, "two starts outvote the pack before");
    assert_ne!(pack(&reference)["digest"], before);
    registry.run(&["verify", &reference]).succeeded();
}

#[test]
fn undoing_a_conversion_leaves_no_trace() {
    let Some(registry) = Registry::start() else { return };
    let (reference, subject) = image(&registry);
    let left = leave(&registry, &subject, &[artifact(&registry, &subject, &trace(1, &["app/always"]))]);
    // A layout has them as well, and loses them.
    let directory = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:v1", directory.path().join("layout").display());
    run(&["copy", &reference, &layout]).succeeded();
    run(&["optimize", "--gather", "--consume", &layout]).succeeded();
    assert_eq!(pack(&layout)["content_bytes"], LEN);
    let told = run(&["optimize", "--gather", &layout]);
    assert!(told.succeeded().stdout.contains("nobody left a trace"), "{}", told.stdout);

    registry.run(&["convert", "--mode", "replace", &reference]).succeeded();
    let told = registry.run(&["revert", &reference]);
    assert!(
        told.succeeded().stdout.contains("traces of starts, 1 of them, of the original"),
        "{}",
        told.stdout
    );
    registry.run(&["detach", &reference]).succeeded();
    assert_eq!(registry.manifest("app", &left[0].to_string()), None);
    assert_eq!(listed(&registry, &subject), (0, 0));
    assert_eq!(
        registry
            .manifest("app", &format!("sha256-{}", subject.hex()))
            .map(|list| list["mediaType"] == OCI_INDEX),
        None
    );
}

#[test]
fn whoever_looks_while_a_pack_is_replaced_finds_one_or_the_other_whole() {
    let Some(registry) = Registry::start() else { return };
    let (reference, subject) = image(&registry);
    let traces = [&["app/always"][..], &["app/once", "app/twice"]].map(|paths| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), trace(1, paths)).unwrap();
        file
    });
    let optimize = |trace: &tempfile::NamedTempFile| {
        run(&["optimize", "--trace", trace.path().to_str().unwrap(), &reference]).succeeded();
    };
    optimize(&traces[1]);
    let tag = format!("sha256-{}.jaunt", subject.hex());
    let mut seen = std::collections::BTreeSet::new();
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| (0..4).for_each(|_| traces.iter().for_each(&optimize)));
        while !replacing.is_finished() {
            let artifact = registry.manifest("app", &tag).expect("an artifact at any time");
            let pack = &artifact["layers"][1];
            assert_eq!(pack["mediaType"], LAUNCH_BOOT_PACK);
            let blob = registry.blob("app", pack["digest"].as_str().unwrap());
            assert_eq!(pack["size"], blob.len());
            seen.insert(pack["digest"].to_string());
        }
        replacing.join().unwrap();
    });
    assert_eq!(seen.len(), 2);
    assert_eq!(listed(&registry, &subject), (0, 1), "those before are gone");
}
