//! Ctrl-C and SIGTERM: what is under way is dropped, and whatever that leaves in a registry is cleaned up.

use std::time::Duration;

use jaunt_distribution::Client;
use tokio::signal::unix::{SignalKind, signal};

/// What a registry may take to forget an upload; it expires those it is not told of.
const PATIENCE: Duration = Duration::from_secs(5);

/// The number of the next signal that asks us to end.
pub async fn asked_to_end() -> i32 {
    let wait = async |kind: SignalKind| {
        // Where signals cannot be had, they end us as they end any program.
        let Ok(mut signals) = signal(kind) else { return std::future::pending().await };
        match signals.recv().await {
            Some(()) => kind.as_raw_value(),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        number = wait(SignalKind::interrupt()) => number,
        number = wait(SignalKind::terminate()) => number,
    }
}

/// Waits for uploads to be cancelled, not for long, and not when asked a second time.
pub async fn clean_up(client: &Client) {
    tokio::select! {
        _ = tokio::time::timeout(PATIENCE, client.settled()) => {}
        _ = asked_to_end() => {}
    }
}
