//! A caller that waits for a refresh or a check.

use std::time::Duration;

use tokio::{sync::watch, time};

use super::decision::Outcome;

/// How long a waiter waits beyond the time limit, so that the result can still arrive.
const GRACE: Duration = Duration::from_millis(50);

/// Sends the outcome of a refresh or check to the callers that wait for it. The outcome is `None`
/// if they have to look again, because the refresh was lost or the check has ended.
pub(super) struct OutcomeSender {
    pub(super) number: u64,
    pub(super) sender: watch::Sender<Option<Option<Outcome>>>,
}

/// Waits for the outcome.
pub(super) struct Waiter {
    pub(super) number: u64,
    pub(super) time_left: Duration,
    pub(super) receiver: watch::Receiver<Option<Option<Outcome>>>,
}

impl Waiter {
    /// Waits for the outcome; `Err` if the time limit passes.
    pub(super) async fn wait(&mut self) -> Result<Option<Outcome>, time::error::Elapsed> {
        let limit = self.time_left.saturating_add(GRACE);
        let outcome = time::timeout(limit, self.receiver.wait_for(Option::is_some)).await?;
        // If the sender is gone, so is the refresh.
        Ok(outcome.ok().and_then(|outcome| outcome.clone().flatten()))
    }
}
