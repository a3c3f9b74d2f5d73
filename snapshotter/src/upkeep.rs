//! What is done for the local store while nobody asks: its size is watched, and what is used is noted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jaunt_layerfs::store::{Store, StoreError};
use tokio::time::{Interval, MissedTickBehavior};

use crate::mounts::Mounts;

/// How often: a node at its limit fills a few hundred MiB meanwhile.
const EVERY: Duration = Duration::from_secs(5);

/// Keeps the store in order, until the runtime ends.
pub async fn upkeep(store: Arc<Store>, mounts: Arc<Mounts>) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        once(&store, &mounts).await;
    }
}

/// The same, once.
pub async fn once(store: &Arc<Store>, mounts: &Arc<Mounts>) {
    let (store, mounts) = (store.clone(), mounts.clone());
    in_order(move || {
        mounts.end_leftovers();
        mounts.note_use();
        store.maintain_with(SystemTime::now(), || mounts.let_go_of_oldest())
    })
    .await;
}

/// Keeps a store in order that serves one mount, until the runtime ends.
pub async fn upkeep_alone(store: Arc<Store>) {
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        let store = store.clone();
        in_order(move || store.maintain(SystemTime::now())).await;
    }
}

fn ticks() -> Interval {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn in_order(maintain: impl FnOnce() -> Result<(), StoreError> + Send + 'static) {
    let done = tokio::task::spawn_blocking(maintain).await;
    // A panic there has been reported by its own thread.
    if let Ok(Err(error)) = done {
        tracing::warn!(%error, cause = %error.source, "the store is not kept in order");
    }
}
