//! A status, image by image.

use std::collections::{BTreeMap, BTreeSet};

use crate::proto::jaunt::status::v1::{GetResponse, ImageFigures, Snapshot};

/// What became of one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// As it was pulled.
    pub name: String,
    /// How many layers it has here.
    pub layers: usize,
    /// How many of them are lazy.
    pub lazy: usize,
    /// Why the others are not: codes.
    pub reasons: BTreeSet<String>,
    /// Of what is mounted: bytes that are local, of how many.
    pub local: Option<(u64, u64)>,
    /// What its readers have waited.
    pub stalled_ms: u64,
}

/// All that pulls have named, by name.
pub fn images(status: &GetResponse) -> Vec<Image> {
    let by_name = committed(status);
    let mut layers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for snapshot in by_name.values().filter(|snapshot| !snapshot.image.is_empty()) {
        layers.entry(&snapshot.image).or_default().extend(beneath(snapshot, &by_name));
    }
    layers.into_iter().map(|(name, layers)| image(status, name, &found(&layers, &by_name))).collect()
}

/// The image that is called `name`, by the chain ID of its top layer, whatever image has brought its layers here; `None`,
/// if there is no snapshot of that chain.
pub fn image_of_chain(status: &GetResponse, name: &str, chain: &str) -> Option<Image> {
    let by_name = committed(status);
    let tops = by_name.values().filter(|snapshot| snapshot.chain_id == chain);
    let layers: BTreeSet<&str> = tops.flat_map(|top| beneath(top, &by_name)).collect();
    (!layers.is_empty()).then(|| image(status, name, &found(&layers, &by_name)))
}

type ByName<'s> = BTreeMap<&'s str, &'s Snapshot>;

fn committed(status: &GetResponse) -> ByName<'_> {
    let committed = status.snapshots.iter().filter(|snapshot| snapshot.kind == "committed");
    committed.map(|snapshot| (snapshot.name.as_str(), snapshot)).collect()
}

/// The names of a layer and all below it.
fn beneath<'s>(top: &'s Snapshot, by_name: &ByName<'s>) -> impl Iterator<Item = &'s str> {
    let chain = std::iter::successors(Some(top), |above| by_name.get(above.parent.as_str()).copied());
    // No chain is longer than there are snapshots, whatever their parents say.
    chain.take(by_name.len()).map(|layer| layer.name.as_str())
}

fn found<'s>(names: &BTreeSet<&str>, by_name: &ByName<'s>) -> Vec<&'s Snapshot> {
    names.iter().filter_map(|name| by_name.get(name).copied()).collect()
}

fn image(status: &GetResponse, name: &str, layers: &[&Snapshot]) -> Image {
    let lazy = layers.iter().filter(|layer| layer.backing == "lazy").count();
    let fallbacks = status.fallbacks.iter().filter(|fallback| fallback.image == name && lazy < layers.len());
    let told = status.figures.iter().flat_map(|figures| &figures.images);
    // A mount is named by where it comes from and its chain.
    let is_of = |figures: &&ImageFigures| {
        layers.iter().any(|layer| {
            !layer.chain_id.is_empty() && figures.name.ends_with(&format!("chain {})", layer.chain_id))
        })
    };
    let mounted: Vec<&ImageFigures> = told.filter(is_of).collect();
    let largest = mounted.iter().max_by_key(|figures| figures.total_bytes);
    Image {
        name: name.to_owned(),
        layers: layers.len(),
        lazy,
        reasons: fallbacks.map(|fallback| fallback.code.clone()).collect(),
        local: largest.map(|figures| (figures.present_bytes, figures.total_bytes)),
        stalled_ms: mounted.iter().map(|figures| figures.stalled_ms).sum(),
    }
}

impl Image {
    /// How much of what is mounted is local.
    pub fn percent(&self) -> Option<f64> {
        self.local.map(|(present, total)| match total {
            0 => 100.0,
            total => present as f64 * 100.0 / total as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::jaunt::status::v1::{Fallback, Figures};

    fn layer(name: &str, parent: &str, image: &str, backing: &str) -> Snapshot {
        Snapshot {
            name: name.to_owned(),
            parent: parent.to_owned(),
            chain_id: format!("sha256:{name}"),
            image: image.to_owned(),
            kind: "committed".to_owned(),
            backing: backing.to_owned(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn an_image_has_all_layers_beneath_it_and_the_reasons_of_its_own() {
        let fallback = |image: &str| Fallback {
            image: image.to_owned(),
            code: "timeout".to_owned(),
            ..Fallback::default()
        };
        let mount = ImageFigures {
            name: "r.example/app (chain sha256:2)".to_owned(),
            present_bytes: 1,
            total_bytes: 4,
            stalled_ms: 9,
            ..ImageFigures::default()
        };
        let status = GetResponse {
            snapshots: vec![
                layer("1", "", "base:1", "lazy"),
                layer("2", "1", "app:1", "lazy"),
                layer("3", "2", "app:1", "eager"),
                layer("ring", "ring", "odd", "lazy"),
            ],
            fallbacks: vec![fallback("app:1"), fallback("base:1")],
            figures: Some(Figures { images: vec![mount], ..Figures::default() }),
            ..GetResponse::default()
        };
        let found = images(&status);
        let names: Vec<_> =
            found.iter().map(|image| (image.name.as_str(), image.lazy, image.layers)).collect();
        assert_eq!(names, [("app:1", 2, 3), ("base:1", 1, 1), ("odd", 1, 1)]);
        assert_eq!((found[0].percent(), found[0].stalled_ms), (Some(25.0), 9));
        assert!(found[0].reasons.contains("timeout") && found[1].reasons.is_empty(), "all of it is lazy");
        let another_tag = image_of_chain(&status, "app:latest", "sha256:2").unwrap();
        assert_eq!((another_tag.lazy, another_tag.layers, another_tag.percent()), (2, 2, Some(25.0)));
        assert_eq!(image_of_chain(&status, "app:1", "sha256:9"), None);
    }
}
