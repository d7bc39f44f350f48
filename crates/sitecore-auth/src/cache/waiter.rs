//! A caller that waits for a refresh or a check.

use std::time::Duration;

use tokio::{sync::watch, time};

use super::decision::Outcome;

/// How long a waiter waits beyond the time limit, so that the result can still arrive.
const GRACE: Duration = Duration::from_millis(50);

/// What a refresh or check sends to its waiters: its outcome, or `None` if they have to look again,
/// because the refresh was lost or the check has ended.
pub(super) type Ended = Option<Outcome>;

/// Sends the outcome of a refresh or check to the callers that wait for it.
pub(super) struct Waiting {
    pub(super) number: u64,
    pub(super) ended: watch::Sender<Option<Ended>>,
}

/// Waits for the outcome.
pub(super) struct Waiter {
    pub(super) number: u64,
    pub(super) time_left: Duration,
    pub(super) ended: watch::Receiver<Option<Ended>>,
}

impl Waiter {
    /// Waits for the outcome; `Err` if the time limit passes.
    pub(super) async fn wait(&mut self) -> Result<Ended, time::error::Elapsed> {
        let limit = self.time_left.saturating_add(GRACE);
        let ended = time::timeout(limit, self.ended.wait_for(Option::is_some)).await?;
        // If the sender is gone, so is the refresh.
        Ok(ended.ok().and_then(|ended| ended.clone().flatten()))
    }
}
