//! containerd's garbage collection, over and over while a test does something else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tonic::Request;
use tonic::transport::Channel;

use crate::cri;
use crate::error::{Error, Result};
use crate::proto::containerd::services::leases::v1 as api;
use api::leases_client::LeasesClient;

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Collection {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u32>>>,
}

impl Collection {
    /// Has the containerd that listens on `socket` collect from now on.
    pub fn start(socket: &Path) -> Self {
        let (socket, stop) = (socket.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        Self { stop, thread: Some(std::thread::spawn(move || collect_until(&stopped, &socket))) }
    }

    /// Ends it; how many rounds there were.
    pub fn stop(mut self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().map(JoinHandle::join);
        thread
            .and_then(std::result::Result::ok)
            .unwrap_or_else(|| Err(Error::unexpected("collection", "panicked")))
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn collect_until(stop: &AtomicBool, socket: &Path) -> Result<u32> {
    let failed = |error: &dyn std::error::Error| Error::unexpected("collection", error.to_string());
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    let channel = runtime.block_on(cri::channel(socket)).map_err(|error| failed(&error))?;
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let collected = runtime.block_on(collect(LeasesClient::new(channel.clone())));
        collected.map_err(|status| Error::unexpected("leases", status.message()))?;
        rounds += 1;
    }
    Ok(rounds)
}

/// containerd answers to the end of a lease, where it is asked to, once it has collected.
async fn collect(mut leases: LeasesClient<Channel>) -> std::result::Result<(), tonic::Status> {
    let id = "collection".to_owned();
    let create = api::CreateRequest { id: id.clone(), ..api::CreateRequest::default() };
    leases.create(elsewhere(create)).await?;
    leases.delete(elsewhere(api::DeleteRequest { id, sync: true })).await.map(drop)
}

/// In a namespace that nobody else has.
fn elsewhere<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("containerd-namespace", tonic::metadata::MetadataValue::from_static("collection"));
    request
}
