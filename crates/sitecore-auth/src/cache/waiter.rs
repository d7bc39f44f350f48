//! A refresh in flight, as seen by the callers that wait for it.

use std::time::Duration;

use tokio::{sync::watch, time};

use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
};

/// How often a caller joins another refresh after the one it waited for was lost with its runtime.
pub(super) const MAX_REJOINS: u32 = 8;

/// A refresh in flight.
pub(super) struct InFlight {
    started: Moment,
    waiter: Waiter,
}

/// Waits for one refresh. The result carries no token, because the token is in the cache by then.
#[derive(Clone)]
pub(super) struct Waiter {
    pub(super) generation: u64,
    timeout: Duration,
    result: watch::Receiver<Option<Result<()>>>,
}

impl InFlight {
    /// Registers a refresh with this time limit. Its task sends the result. If the sender is
    /// dropped, the task is gone.
    pub(super) fn start(
        generation: u64,
        started: Moment,
        limit: Duration,
    ) -> (watch::Sender<Option<Result<()>>>, Self) {
        let (sender, result) = watch::channel(None);
        // The result needs a little time to arrive.
        let timeout = limit.saturating_add((limit / 10).min(Duration::from_secs(1)));
        (sender, Self { started, waiter: Waiter { generation, timeout, result } })
    }

    pub(super) fn generation(&self) -> u64 {
        self.waiter.generation
    }

    /// Returns `true` if its runtime is gone, or has not driven it within the time limit.
    pub(super) fn is_lost(&self, now: Moment) -> bool {
        self.waiter.result.has_changed().is_err()
            || now.elapsed_since(self.started) > self.waiter.timeout
    }

    /// Returns a waiter that gives up when the first one does.
    pub(super) fn waiter_at(&self, now: Moment) -> Waiter {
        let elapsed = now.elapsed_since(self.started);
        Waiter { timeout: self.waiter.timeout.saturating_sub(elapsed), ..self.waiter.clone() }
    }
}

impl Waiter {
    /// Waits for the result; `None` if the refresh is lost.
    pub(super) async fn wait(mut self) -> Option<Result<()>> {
        let ended = time::timeout(self.timeout, self.result.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.clone()
    }
}

/// Returns the error of a caller whose refreshes were all lost.
pub(super) fn lost() -> Error {
    let message = format!(
        "gave up after {MAX_REJOINS} refreshes without a usable token; is the runtime shutting down?"
    );
    Error::new(ErrorKind::Unavailable, message)
}
