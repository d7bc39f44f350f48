//! A caller that waits for a refresh or a check.

use std::time::Duration;

use tokio::{sync::watch, time};

use super::decision::Outcome;

/// How long a waiter waits beyond the time limit, so that the result can still arrive.
const GRACE: Duration = Duration::from_millis(50);

/// Sends the outcome of a refresh or check to the callers that wait for it.
pub(super) struct OutcomeSender {
    pub(super) number: u64,
    pub(super) sender: watch::Sender<Option<Outcome>>,
}

impl OutcomeSender {
    pub(super) fn new(number: u64) -> Self {
        Self { number, sender: watch::Sender::new(None) }
    }
}

/// Waits for the outcome.
pub(super) struct Waiter {
    pub(super) number: u64,
    pub(super) time_left: Duration,
    pub(super) receiver: watch::Receiver<Option<Outcome>>,
}

impl Waiter {
    /// Waits for the outcome; `Err` if the time limit passes.
    pub(super) async fn wait(&mut self) -> Result<Outcome, time::error::Elapsed> {
        let limit = self.time_left.saturating_add(GRACE);
        let outcome = time::timeout(limit, self.receiver.wait_for(Option::is_some)).await?;
        // If the sender is gone, so is the refresh.
        Ok(outcome.ok().and_then(|outcome| outcome.clone()).unwrap_or(Outcome::LookAgain))
    }
}
