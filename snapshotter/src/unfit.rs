//! A worker whose state cannot be used: it says so to everybody who asks, and is tried again.
//!
//! Calls are refused with the reason at once. Reads on mounts that are held wait at first, in case that it passes (a full
//! table of files, a disk that is away, a version that is put back); then they fail, until a worker can serve again.

use std::time::Duration;

use axum::Router;
use jaunt_layerfs::fuse::{Orphan, SessionHandle};
use tokio::net::UnixListener;
use tokio::signal::unix::Signal;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::service::Routes;

use crate::supervisor::Handle;

/// As long as a read waits for registries in trouble, by default.
const READS_WAIT: Duration = Duration::from_secs(30);
/// The state is tried again after as long as it has been of no use, within these bounds.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Refuses everything with `why` until it is time to try again, or to stop.
pub(crate) async fn refuse(supervisor: Handle, listener: UnixListener, why: String, stop: &mut Signal) {
    let unfit_for = Handle::unfit_for().unwrap_or_default();
    let pause = unfit_for.clamp(PAUSES.0, PAUSES.1);
    tracing::error!(why, ?pause, "the state cannot be used: all calls are refused, then it is tried again");
    let failing = if unfit_for >= READS_WAIT { fail_readers(supervisor).await } else { Vec::new() };
    if !failing.is_empty() {
        tracing::error!(mounts = failing.len(), "reads fail until the state can be used");
    }
    let refusal = Status::unavailable(why);
    let all = Router::new().fallback(move || {
        let refusal = refusal.clone();
        async move { refusal.into_http::<axum::body::Body>() }
    });
    let server = tonic::transport::Server::builder()
        .add_routes(Routes::from(all))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::select! {
        served = server => drop(served.inspect_err(|error| tracing::warn!(%error, "calls are not even refused"))),
        () = tokio::time::sleep(pause) => {}
        _ = stop.recv() => {}
    }
}

/// Answers everything on the mounts that are held with an error.
async fn fail_readers(supervisor: Handle) -> Vec<SessionHandle> {
    let failing = tokio::task::spawn_blocking(move || {
        let held =
            supervisor.mounts().inspect_err(|error| tracing::error!(%error, "cannot ask what is mounted"));
        let served = held.unwrap_or_default().into_iter().filter_map(|held| {
            let served = held.connection?.serve(Orphan, 1);
            served
                .inspect_err(|error| tracing::error!(mount = %held.key, %error, "cannot answer for it"))
                .ok()
        });
        served.collect()
    });
    failing.await.unwrap_or_default()
}
