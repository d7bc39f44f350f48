//! A refresh in flight, as those see it who wait for it.

use std::time::Duration;

use tokio::{sync::watch, time};

use crate::{Result, clock::Now};

/// What those who wait are told. The token itself is in the cache by then.
pub(super) type Outcome = Result<()>;

/// A refresh in flight.
pub(super) struct Flight {
    started: Now,
    waiter: Waiter,
}

/// Waits for one refresh.
#[derive(Clone)]
pub(super) struct Waiter {
    pub(super) generation: u64,
    patience: Duration,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Flight {
    /// Starts a refresh that may take `bound`. Its task tells the outcome to the sender; a sender that is
    /// dropped tells that the task is gone.
    pub(super) fn start(
        generation: u64,
        started: Now,
        bound: Duration,
    ) -> (watch::Sender<Option<Outcome>>, Self) {
        let (sender, outcome) = watch::channel(None);
        // The news needs a little time to arrive.
        let patience = bound.saturating_add((bound / 10).min(Duration::from_secs(1)));
        (sender, Self { started, waiter: Waiter { generation, patience, outcome } })
    }

    pub(super) fn generation(&self) -> u64 {
        self.waiter.generation
    }

    /// Tells whether its runtime is gone, or has not driven it for longer than a refresh may take.
    pub(super) fn is_lost(&self, now: Now) -> bool {
        self.waiter.outcome.has_changed().is_err()
            || now.elapsed_since(self.started) > self.waiter.patience
    }

    /// Returns a waiter that waits no longer than the first does.
    pub(super) fn waiter_at(&self, now: Now) -> Waiter {
        let waited = now.elapsed_since(self.started);
        Waiter { patience: self.waiter.patience.saturating_sub(waited), ..self.waiter.clone() }
    }
}

impl Waiter {
    /// Waits for the outcome; `None` if the refresh is lost.
    pub(super) async fn outcome(mut self) -> Option<Outcome> {
        let ended = time::timeout(self.patience, self.outcome.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.clone()
    }
}
