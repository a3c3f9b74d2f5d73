//! Moving a layer again when a registry was in trouble in the middle of it.
//!
//! Requests are repeated within the client. A blob that was streamed to a registry cannot be: its bytes are gone,
//! so the whole of it has to be made again.

use std::time::Duration;

use crate::error::Error;

/// Tries after the first: with the pauses between them, a registry has half a minute to be restarted.
const MORE: u32 = 3;
/// The pause before the second try; later ones are three times as long as the one before.
const PAUSE: Duration = Duration::from_secs(2);

/// The tries left for one blob.
pub struct Tries {
    left: u32,
    pause: Duration,
}

impl Tries {
    pub const fn new() -> Self {
        Self { left: MORE, pause: PAUSE }
    }

    /// Waits for the next try; the error when there is none, or it could not help.
    pub async fn again(&mut self, error: Error) -> Result<(), Error> {
        if !error.is_transient() {
            return Err(error);
        }
        let Some(left) = self.left.checked_sub(1) else { return Err(error) };
        tracing::warn!(%error, pause = ?self.pause, "will try again");
        tokio::time::sleep(self.pause).await;
        (self.left, self.pause) = (left, self.pause * 3);
        Ok(())
    }
}
