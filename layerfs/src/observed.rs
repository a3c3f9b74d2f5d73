//! The node as it can be looked at from outside: what was counted, what is kept, and how far its mounts are.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::Ordering;

use crate::completion::CompletionCounters;
use crate::fs::{Ino, LayerFs};
use crate::layers::Layers;
use crate::metrics::Metrics;

/// Files that are named, over all mounts.
const WORST: usize = 20;

/// The layers and mounts of a node.
pub struct Observed {
    layers: Layers,
    mounts: Mutex<Vec<Weak<LayerFs>>>,
    completion: OnceLock<Arc<CompletionCounters>>,
}

/// How much of an image is there, and what its readers have waited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFigures {
    /// Its mounts, of whatever number of its layers.
    pub mounts: u64,
    /// Bytes of the largest mount's layers that are local.
    pub present_bytes: u64,
    /// Bytes of those layers.
    pub total_bytes: u64,
    /// What readers have waited.
    pub stalled: Duration,
}

/// A file that readers have waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StalledFile {
    /// The image.
    pub image: String,
    /// The file.
    pub path: String,
    /// For how long.
    pub waited: Duration,
    /// How many reads.
    pub reads: u64,
}

/// What the store holds, and what has happened in it since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Bytes on disk.
    pub bytes: u64,
    /// Beyond which room is made, if there is a limit.
    pub cap: Option<u64>,
    /// Layers.
    pub layers: u64,
    /// Bytes that were taken away to make room.
    pub evicted_bytes: u64,
    /// Bytes of complete layers that were compared with what had been written, though nobody read them.
    pub scrubbed_bytes: u64,
    /// Units whose bytes on disk were not what had been written.
    pub damaged_units: u64,
    /// Bytes that could not be kept.
    pub unkept_bytes: u64,
    /// Layers and indexes in quarantine.
    pub quarantined: u64,
}

impl Observed {
    /// The node of `layers`.
    pub fn new(layers: Layers) -> Arc<Self> {
        Arc::new(Self { layers, mounts: Mutex::default(), completion: OnceLock::new() })
    }

    /// Looks at a mount as well, as long as there is one.
    pub fn watch(&self, mount: &Arc<LayerFs>) {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        mounts.retain(|mount| mount.strong_count() > 0);
        mounts.push(Arc::downgrade(mount));
    }

    /// Looks at what completes the mounts as well. One is enough.
    pub fn watch_completion(&self, counters: &Arc<CompletionCounters>) {
        let _ = self.completion.set(counters.clone());
    }

    /// Has `registry` tell everything.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        self.metrics().register(registry);
        registry.register_collector(Box::new(Watched(self.clone())));
    }

    /// Mounted images that are not completed because there is no room for them.
    pub fn images_without_room(&self) -> u64 {
        self.completion.get().map_or(0, |counted| counted.without_room.load(Ordering::Relaxed))
    }

    /// What was counted.
    pub fn metrics(&self) -> &Metrics {
        self.layers.metrics()
    }

    /// What the store is like.
    pub fn store(&self) -> StoreFigures {
        let store = self.layers.store();
        let (usage, counters) = (store.usage(), store.counters());
        StoreFigures {
            bytes: usage.bytes,
            cap: store.cap().high,
            layers: usage.layers as u64,
            evicted_bytes: counters.evicted_bytes.load(Ordering::Relaxed),
            scrubbed_bytes: counters.scrubbed_bytes.load(Ordering::Relaxed),
            damaged_units: counters.damaged_units.load(Ordering::Relaxed),
            unkept_bytes: counters.unkept_bytes.load(Ordering::Relaxed),
            quarantined: store.quarantined().len() as u64,
        }
    }

    /// What the mounted images are like, by name. Looks at what is on disk.
    pub fn images(&self) -> BTreeMap<String, ImageFigures> {
        let mut images = BTreeMap::<String, ImageFigures>::new();
        for mount in self.mounts() {
            let image = images.entry(mount.name().to_owned()).or_default();
            image.mounts += 1;
            image.stalled += mount.stalls().waited();
            let layers = mount.layers().iter();
            let (present, total) = layers.fold((0, 0), |(present, total), layer| {
                (present + layer.present_bytes(), total + layer.total_bytes())
            });
            if total > image.total_bytes {
                (image.present_bytes, image.total_bytes) = (present, total);
            }
        }
        images
    }

    /// The files that readers have waited for the longest, the worst first. Looks for their names.
    pub fn stalled_files(&self) -> Vec<StalledFile> {
        let mut worst: Vec<_> = Vec::new();
        for mount in self.mounts() {
            worst.extend(mount.stalls().worst().into_iter().map(|stall| (mount.clone(), stall)));
        }
        worst.sort_by_key(|(_, stall)| std::cmp::Reverse(stall.waited));
        worst.truncate(WORST);
        let named = worst.into_iter().map(|(mount, stall)| StalledFile {
            image: mount.name().to_owned(),
            path: mount.path_of(stall.file).unwrap_or_default(),
            waited: stall.waited,
            reads: stall.reads,
        });
        named.collect()
    }

    /// Paths of the files in a mount of that name, if there is one. Looks at every name.
    pub fn paths(&self, mount: &str) -> Option<HashMap<Ino, String>> {
        self.mounts().into_iter().find(|fs| fs.name() == mount).map(|fs| fs.paths())
    }

    fn mounts(&self) -> Vec<Arc<LayerFs>> {
        let mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        mounts.iter().filter_map(Weak::upgrade).collect()
    }
}

/// What is looked at when somebody asks, instead of being counted all the time.
struct Watched(Arc<Observed>);

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let store = self.0.store();
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge("store", "Bytes on disk of decoded layers", Some(&Unit::Bytes), store.bytes)?;
        gauge("store_layers", "Layers in the store", None, store.layers)?;
        let cap = "Bytes on disk beyond which room is made; 0: no limit";
        gauge("store_cap", cap, Some(&Unit::Bytes), store.cap.unwrap_or(0))?;
        gauge("quarantined", "Layers and launch indexes in quarantine", None, store.quarantined)?;
        let mut counter = |name: &str, help: &str, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        };
        counter("store_evicted_bytes", "Bytes taken away to make room", store.evicted_bytes)?;
        counter(
            "store_damaged_units",
            "Units found damaged on disk, and fetched again",
            store.damaged_units,
        )?;
        counter("store_scrubbed_bytes", "Bytes compared with what was written", store.scrubbed_bytes)?;
        counter("store_unkept_bytes", "Bytes that the disk had no room for", store.unkept_bytes)?;
        self.completion(&mut encoder)?;
        self.images(&mut encoder)
    }
}

impl Watched {
    fn completion(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(counted) = self.0.completion.get() else { return Ok(()) };
        let counters = [
            ("filled_bytes", "Compressed bytes fetched though nobody read them", &counted.filled_bytes),
            ("layers", "Layers whose tar was found to be what its diffID says", &counted.complete_layers),
            ("trees", "Images whose tree was found to be that of their layers", &counted.checked_chains),
            ("quarantined", "Layers and indexes found not to be what they claim", &counted.quarantined),
            ("postponed", "How often an image could not be completed for now", &counted.postponed),
            ("lost", "How often a complete image was found to have lost a part", &counted.lost),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            let (name, kind) = (format!("completion_{name}"), counter.metric_type());
            counter.encode(encoder.encode_descriptor(&name, help, None, kind)?)?;
        }
        let without = ConstGauge::new(i64::try_from(self.0.images_without_room()).unwrap_or(i64::MAX));
        let help = "Mounted images that are not completed because there is no room for them";
        let (name, kind) = ("completion_without_room", without.metric_type());
        without.encode(encoder.encode_descriptor(name, help, None, kind)?)
    }

    /// As many label values as there are mounted images.
    fn images(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Figure = (&'static str, &'static str, fn(&ImageFigures) -> f64);
        let figures: [Figure; 4] = [
            ("image_mounts", "Mounts of an image", |image| image.mounts as f64),
            ("image_present_ratio", "Share of an image's bytes that is local", ImageFigures::present_ratio),
            ("image_bytes", "Bytes of an image's layers", |image| image.total_bytes as f64),
            ("image_stalled_seconds", "Time that readers of an image's mounts have waited", |image| {
                image.stalled.as_secs_f64()
            }),
        ];
        let images = self.0.images();
        for (name, help, figure) in figures {
            let kind = ConstGauge::new(0.0).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (image, figures) in &images {
                let labels = [("image", image.as_str())];
                ConstGauge::new(figure(figures)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl ImageFigures {
    /// The share of the bytes that is local, from 0 to 1; 1 where there is nothing to be had.
    pub fn present_ratio(&self) -> f64 {
        if self.total_bytes == 0 { 1.0 } else { self.present_bytes as f64 / self.total_bytes as f64 }
    }
}
