//! Uploads that were dropped unfinished, and are being cancelled at their registries.

use tokio::sync::watch;

/// How many there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endings(watch::Sender<usize>);

/// One of them, until it is dropped.
pub(crate) struct Ending(watch::Sender<usize>);

impl Endings {
    pub(crate) fn begin(&self) -> Ending {
        self.0.send_modify(|under_way| *under_way += 1);
        Ending(self.0.clone())
    }

    /// Waits until there is none.
    pub(crate) async fn over(&self) {
        // We are a sender ourselves, so it does not close.
        let _ = self.0.subscribe().wait_for(|under_way| *under_way == 0).await;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send_modify(|under_way| *under_way -= 1);
    }
}
