//! The figures among a status.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::proto::jaunt::status::v1::{Figures, ImageFigures, StalledFile};

/// Files that a person is shown.
const SHOWN: usize = 5;

/// A few lines: what was read, what it took, how far the images are, and what was waited for.
pub(super) fn text(figures: &Figures) -> String {
    let mut out = String::new();
    let Figures { reads, misses, failed_reads, .. } = figures;
    let _ = writeln!(
        out,
        "\nReads: {reads}, {misses} waited, {failed_reads} failed; {} fetched in {} requests, {} served",
        megabytes(figures.fetched_bytes),
        figures.fetches,
        megabytes(figures.served_bytes)
    );
    let cap = match figures.store_cap_bytes {
        0 => String::new(),
        cap => format!(" of {}", megabytes(cap)),
    };
    let _ = writeln!(
        out,
        "Store: {}{cap}; {} evicted, {} units damaged, {} in quarantine",
        megabytes(figures.store_bytes),
        megabytes(figures.store_evicted_bytes),
        figures.store_damaged_units,
        figures.quarantined
    );
    if figures.images_without_room > 0 {
        let _ = writeln!(out, "  no room to complete: {} mounted", figures.images_without_room);
    }
    if figures.boot_packs_set_aside > 0 {
        let packs = figures.boot_packs_set_aside;
        let _ = writeln!(out, "  boot packs not fetched any more, which starts hardly used: {packs}");
    }
    for image in &figures.images {
        let stalled = seconds(image.stalled_ms);
        let _ = writeln!(
            out,
            "  {:5.1} % of {}  {}, stalled {stalled}",
            percent(image),
            image.name,
            mounts(image)
        );
    }
    if !figures.stalled_files.is_empty() {
        out.push_str("Waited for the longest:\n");
    }
    for StalledFile { image, path, waited_ms, reads } in figures.stalled_files.iter().take(SHOWN) {
        let _ = writeln!(out, "  {} in {reads} reads  {path}  ({image})", seconds(*waited_ms));
    }
    out
}

/// All of them.
pub(super) fn json(figures: &Figures) -> Value {
    let image = |i: &ImageFigures| {
        json!({
            "name": i.name, "mounts": i.mounts, "present_bytes": i.present_bytes,
            "total_bytes": i.total_bytes, "stalled_ms": i.stalled_ms,
        })
    };
    let file = |f: &StalledFile| json!({"image": f.image, "path": f.path, "waited_ms": f.waited_ms, "reads": f.reads});
    json!({
        "reads": figures.reads, "misses": figures.misses, "failed_reads": figures.failed_reads,
        "served_bytes": figures.served_bytes, "fetches": figures.fetches,
        "fetched_bytes": figures.fetched_bytes, "decoded_bytes": figures.decoded_bytes,
        "wrong_spans": figures.wrong_spans, "store_bytes": figures.store_bytes,
        "store_cap_bytes": figures.store_cap_bytes, "store_evicted_bytes": figures.store_evicted_bytes,
        "store_damaged_units": figures.store_damaged_units, "quarantined": figures.quarantined,
        "images": figures.images.iter().map(image).collect::<Vec<_>>(),
        "images_without_room": figures.images_without_room,
        "boot_packs_set_aside": figures.boot_packs_set_aside,
        "stalled_files": figures.stalled_files.iter().map(file).collect::<Vec<_>>(),
    })
}

fn percent(image: &ImageFigures) -> f64 {
    match image.total_bytes {
        0 => 100.0,
        total => image.present_bytes as f64 * 100.0 / total as f64,
    }
}

fn mounts(image: &ImageFigures) -> String {
    format!("{} mount{}", image.mounts, if image.mounts == 1 { "" } else { "s" })
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn seconds(milliseconds: u64) -> String {
    format!("{:.1} s", milliseconds as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_how_far_an_image_is_and_what_was_waited_for() {
        let image = ImageFigures {
            name: "r.example/a".to_owned(),
            mounts: 1,
            present_bytes: 29,
            total_bytes: 200,
            stalled_ms: 1234,
        };
        let file = StalledFile {
            image: image.name.clone(),
            path: "/usr/bin/python3".to_owned(),
            waited_ms: 900,
            reads: 7,
        };
        let figures = Figures {
            reads: 100,
            misses: 9,
            fetched_bytes: 50_500_000,
            store_cap_bytes: 1_000_000_000,
            images_without_room: 2,
            boot_packs_set_aside: 3,
            images: vec![image],
            stalled_files: vec![file],
            ..Figures::default()
        };
        let text = text(&figures);
        for line in [
            "Reads: 100, 9 waited, 0 failed; 50.5 MB fetched in 0 requests, 0.0 MB served",
            "Store: 0.0 MB of 1000.0 MB; 0.0 MB evicted, 0 units damaged, 0 in quarantine",
            "  no room to complete: 2 mounted",
            "  boot packs not fetched any more, which starts hardly used: 3",
            "   14.5 % of r.example/a  1 mount, stalled 1.2 s",
            "  0.9 s in 7 reads  /usr/bin/python3  (r.example/a)",
        ] {
            assert!(text.lines().any(|told| told == line), "no {line:?} in {text}");
        }
        assert_eq!(json(&figures)["images"][0]["present_bytes"], 29);
        assert_eq!(json(&figures)["stalled_files"][0]["path"], "/usr/bin/python3");
    }
}
