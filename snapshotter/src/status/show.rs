//! A status as a person or a program reads it.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::words::meaning;
use super::{Image, figures, images, originals};
use crate::proto::jaunt::status::v1::{Fallback, GetResponse, Health, Snapshot};

/// The daemon, its images, its snapshots, what reading has cost, then what was not lazy and why.
pub fn text(status: &GetResponse, now: SystemTime) -> String {
    let mut out = String::new();
    let count = |backing| status.snapshots.iter().filter(|s| is_committed(s, backing)).count();
    let _ = writeln!(
        out,
        "jaunt-snapshotter {}: {} layers lazy, {} unpacked",
        status.version,
        count("lazy"),
        count("eager")
    );
    if let Some(health) = &status.health {
        out.push_str(&health_text(health));
    }
    let found = images(status);
    if !found.is_empty() {
        out.push('\n');
        let head = ["IMAGE", "LAZY LAYERS", "LOCAL", "STALLED", "WHY NOT"].map(str::to_owned);
        table(&mut out, &head, &found.iter().map(image_row).collect::<Vec<_>>());
    }
    let rows: Vec<[String; 5]> = status.snapshots.iter().map(row).collect();
    if !rows.is_empty() {
        out.push('\n');
        table(&mut out, &["ID", "KIND", "BACKING", "IMAGE", "CHAIN OR KEY"].map(str::to_owned), &rows);
    }
    if let Some(told) = &status.figures {
        out.push_str(&figures::text(told));
    }
    if let Some(told) = &status.originals {
        out.push_str(&originals::text(told, count("lazy") > 0));
    }
    if !status.fallbacks.is_empty() {
        out.push_str("\nUnpacked instead of mounted lazily:\n");
        for (fallback, layers) in by_image(&status.fallbacks) {
            let Fallback { code, image, layer, detail, .. } = fallback;
            let what = if image.is_empty() { layer } else { image };
            let _ =
                writeln!(out, "  {} ago  {what} ({layers} layers)  {code}: {detail}", ago(fallback.at, now));
            if !meaning(code).is_empty() {
                let _ = writeln!(out, "      {}", meaning(code));
            }
        }
    }
    out
}

/// The same in a line, for a log.
pub fn line(status: &GetResponse) -> String {
    let count = |backing| status.snapshots.iter().filter(|s| is_committed(s, backing)).count();
    let figures = status.figures.clone().unwrap_or_default();
    let stalled: u64 = figures.images.iter().map(|image| image.stalled_ms).sum();
    format!(
        "lazy {} unpacked {} fetched_bytes {} store_bytes {} misses {} failed_reads {} stalled_ms {stalled}",
        count("lazy"),
        count("eager"),
        figures.fetched_bytes,
        figures.store_bytes,
        figures.misses,
        figures.failed_reads,
    )
}

/// Everything, one JSON object.
pub fn json(status: &GetResponse) -> Value {
    let snapshot = |s: &Snapshot| {
        json!({
            "id": s.id, "name": s.name, "parent": s.parent, "kind": s.kind, "backing": s.backing,
            "chain_id": s.chain_id, "image": s.image, "index": s.index, "prefix": s.prefix,
            "mount": s.mount,
        })
    };
    let fallback = |f: &Fallback| json!({"at_ms": f.at, "code": f.code, "image": f.image, "layer": f.layer, "detail": f.detail});
    json!({
        "version": status.version,
        "snapshots": status.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
        "fallbacks": status.fallbacks.iter().map(fallback).collect::<Vec<_>>(),
        "fallback_counts": status.fallback_counts,
        "figures": status.figures.as_ref().map(figures::json),
        "images": images(status).iter().map(image_json).collect::<Vec<_>>(),
        "health": status.health.as_ref().map(health_json),
        "originals": status.originals.as_ref().map(originals::json),
    })
}

fn health_text(health: &Health) -> String {
    let Health { worker_restarts, fuse_mounts, erofs_mounts, kernel, image_calls_trouble, .. } = health;
    let trouble = match image_calls_trouble.as_str() {
        "" => String::new(),
        why => format!("The kubelet's image calls are not taken: {why}\n"),
    };
    format!(
        "Up {}, its worker {} ({worker_restarts} restarts); {fuse_mounts} mounts served, {erofs_mounts} by the kernel alone; Linux {kernel}\n{trouble}",
        time(health.uptime_ms / 1000),
        time(health.worker_uptime_ms / 1000),
    )
}

fn health_json(health: &Health) -> Value {
    json!({
        "pid": health.pid, "supervisor_pid": health.supervisor_pid, "uptime_ms": health.uptime_ms,
        "worker_uptime_ms": health.worker_uptime_ms, "worker_restarts": health.worker_restarts,
        "fuse_mounts": health.fuse_mounts, "erofs_mounts": health.erofs_mounts, "kernel": health.kernel,
        "image_calls_trouble": health.image_calls_trouble,
    })
}

fn image_row(image: &Image) -> [String; 5] {
    [
        image.name.clone(),
        format!("{} of {}", image.lazy, image.layers),
        image.percent().map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1} %")),
        format!("{} ms", image.stalled_ms),
        image.reasons.iter().map(|code| meaning(code)).collect::<Vec<_>>().join("; "),
    ]
}

fn image_json(image: &Image) -> Value {
    json!({
        "name": image.name, "layers": image.layers, "lazy": image.lazy, "reasons": image.reasons,
        "present_bytes": image.local.map(|(present, _)| present), "total_bytes": image.local.map(|(_, total)| total),
        "stalled_ms": image.stalled_ms,
    })
}

/// A line for an image and reason, not for each layer: the latest, and how many.
fn by_image(fallbacks: &[Fallback]) -> Vec<(&Fallback, usize)> {
    let mut lines: Vec<(&Fallback, usize)> = Vec::new();
    for fallback in fallbacks {
        let same = |(line, _): &&mut (&Fallback, usize)| {
            !line.image.is_empty() && (&line.image, &line.code) == (&fallback.image, &fallback.code)
        };
        match lines.iter_mut().find(same) {
            Some((line, layers)) => (*line, *layers) = (fallback, *layers + 1),
            None => lines.push((fallback, 1)),
        }
    }
    lines
}

fn is_committed(snapshot: &Snapshot, backing: &str) -> bool {
    snapshot.kind == "committed" && snapshot.backing == backing
}

fn row(snapshot: &Snapshot) -> [String; 5] {
    let backing = match snapshot.mount.is_empty() {
        true => snapshot.backing.clone(),
        false => format!("{}, mounted", snapshot.backing),
    };
    let name = if snapshot.chain_id.is_empty() { &snapshot.name } else { &snapshot.chain_id };
    [snapshot.id.to_string(), snapshot.kind.clone(), backing, snapshot.image.clone(), name.clone()]
}

fn table(out: &mut String, head: &[String; 5], rows: &[[String; 5]]) {
    let width = |column: usize| {
        std::iter::once(head).chain(rows).map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    for row in std::iter::once(head).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

fn ago(at_ms: i64, now: SystemTime) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    time(now.duration_since(at).unwrap_or_default().as_secs())
}

fn time(seconds: u64) -> String {
    match seconds {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_is_lazy_and_why_the_rest_is_not() {
        let snapshot = |id, backing: &str, mount: &str| Snapshot {
            id,
            name: format!("k8s.io/{id}/x"),
            kind: "committed".to_owned(),
            backing: backing.to_owned(),
            image: "r.example/a:1".to_owned(),
            mount: mount.to_owned(),
            ..Snapshot::default()
        };
        let fallback = Fallback {
            code: "no-launch-artifact".to_owned(),
            image: "r.example/a:1".to_owned(),
            detail: "none".to_owned(),
            ..Fallback::default()
        };
        let status = GetResponse {
            version: "1".to_owned(),
            snapshots: vec![snapshot(1, "lazy", "/m/1/fs"), snapshot(12, "eager", "")],
            fallbacks: vec![fallback.clone(), fallback],
            fallback_counts: [("no-launch-artifact".to_owned(), 1)].into(),
            figures: None,
            health: Some(Health {
                worker_restarts: 3,
                uptime_ms: 150_000,
                image_calls_trouble: "in use".to_owned(),
                ..Health::default()
            }),
            originals: None,
        };
        let text = text(&status, UNIX_EPOCH + Duration::from_secs(600));
        assert!(text.starts_with("jaunt-snapshotter 1: 1 layers lazy, 1 unpacked\n"), "{text}");
        assert!(text.contains("1   committed  lazy, mounted  r.example/a:1  k8s.io/1/x\n"), "{text}");
        assert!(
            text.contains("  10 min ago  r.example/a:1 (2 layers)  no-launch-artifact: none\n"),
            "{text}"
        );
        assert!(text.contains("Up 2 min, its worker 0 s (3 restarts)"), "{text}");
        assert!(text.contains("image calls are not taken: in use\n"), "{text}");
        assert!(text.contains("r.example/a:1  1 of 2 "), "{text}");
        assert!(text.contains("convert it"), "{text}");
        assert!(line(&status).starts_with("lazy 1 unpacked 1 "));
        assert_eq!(json(&status)["images"][0]["reasons"][0], "no-launch-artifact");
        assert_eq!(json(&status)["health"]["worker_restarts"], 3);
        assert_eq!(json(&status)["snapshots"][0]["backing"], "lazy");
        assert_eq!(json(&status)["fallback_counts"]["no-launch-artifact"], 1);
    }
}
