//! Refreshing without traffic.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::warn;

use super::{runtime::runtime_with_timers, shared::Shared};

/// How often the clocks are read. A timer does not notice that the machine slept, and a key without
/// expiry can be replaced by a token that expires.
const CLOCK_POLL: Duration = Duration::from_secs(30);

/// How often the state is read while a refresh is in flight or about to be due.
const BUSY_POLL: Duration = Duration::from_millis(100);

pub(super) fn keep_fresh(shared: &Arc<Shared>) -> impl Future<Output = ()> + Send + 'static {
    let weak = Arc::downgrade(shared);
    let gone = Arc::clone(&shared.gone);
    async move {
        if let Err(error) = runtime_with_timers() {
            warn!(cause = %error.cause(), "keep_fresh needs a Tokio runtime with timers");
            return;
        }
        loop {
            let mut dropped = pin!(gone.notified());
            // From here on, a notification cannot be missed.
            dropped.as_mut().enable();
            let Some(shared) = weak.upgrade() else { return };
            shared.refresh_in_background();
            let pause = next_poll(&shared);
            drop(shared);
            drop(timeout(pause, dropped).await);
        }
    }
}

/// Returns how long to pause before looking again.
fn next_poll(shared: &Arc<Shared>) -> Duration {
    let status = shared.status();
    if status.is_refreshing() {
        return BUSY_POLL;
    }
    status.next_attempt_in().map_or(CLOCK_POLL, |wait| wait.clamp(BUSY_POLL, CLOCK_POLL))
}
