//! What a conversion costs in the registry: each blob once, however many layers and platforms have it.

use std::collections::HashMap;

use jaunt_formats::Digest;
use serde::Serialize;

use super::image::{Mode, Report};

/// Bytes of blobs. Manifests, configs and other tags are not looked at.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// Layers that the images' manifests name.
    pub image_bytes: u64,
    /// Launch indexes.
    pub index_bytes: u64,
    /// Converted layers beside the images' own: what attaching adds.
    pub attached_bytes: u64,
    /// Layers that only the originals of replaced images have, while a tag keeps those.
    pub original_bytes: u64,
    /// All that goes when the conversion is undone: indexes, and the layers that were attached or that replaced
    /// others.
    pub added_bytes: u64,
}

type Blobs = HashMap<Digest, u64>;

impl Storage {
    pub fn of(reports: &[Report]) -> Self {
        let (mut named, mut converted, mut indexes) = (Blobs::new(), Blobs::new(), Blobs::new());
        let (mut originals, mut kept) = (Blobs::new(), Blobs::new());
        for report in reports {
            named.extend(report.named.iter().copied());
            indexes.extend(report.index.iter().map(|index| (index.digest, index.bytes)));
            for layer in &report.layers {
                converted.extend(layer.converted.zip(layer.converted_bytes));
                originals.insert(layer.original, layer.original_bytes);
                if report.mode == Mode::Replaced && report.original_kept == Some(true) {
                    kept.insert(layer.original, layer.original_bytes);
                }
            }
        }
        let sum = |blobs: &Blobs, without: &[&Blobs]| -> u64 {
            let counted = blobs.iter().filter(|(blob, _)| !without.iter().any(|all| all.contains_key(*blob)));
            counted.fold(0, |sum, (_, len)| sum.saturating_add(*len))
        };
        let index_bytes = sum(&indexes, &[]);
        Self {
            image_bytes: sum(&named, &[]),
            index_bytes,
            attached_bytes: sum(&converted, &[&named]),
            original_bytes: sum(&kept, &[&named, &converted]),
            added_bytes: index_bytes.saturating_add(sum(&converted, &[&originals])),
        }
    }
}
