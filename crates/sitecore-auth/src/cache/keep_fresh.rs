//! Refreshing without traffic.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::warn;

use super::{refresh, shared::Shared};

/// How often the clocks are read. A timer does not notice that the machine slept.
const CLOCK_POLL: Duration = Duration::from_secs(30);

/// How often the state is read while a refresh is in flight or about to be due.
const BUSY_POLL: Duration = Duration::from_millis(100);

pub(super) fn keep_fresh(shared: &Arc<Shared>) -> impl Future<Output = ()> + Send + 'static {
    let weak = Arc::downgrade(shared);
    let gone = Arc::clone(&shared.gone);
    async move {
        if let Err(error) = refresh::check_runtime() {
            warn!(cause = %error.cause(), "keep_fresh needs a Tokio runtime with timers");
            return;
        }
        loop {
            let mut dropped = pin!(gone.notified());
            // From here on, a notification cannot be missed.
            dropped.as_mut().enable();
            let Some(shared) = weak.upgrade() else { return };
            refresh::refresh_in_background(&shared);
            let pause = next_poll(&shared);
            drop(shared);
            match pause {
                Some(pause) => drop(timeout(pause, dropped).await),
                None => dropped.await,
            }
        }
    }
}

/// Returns when to look again; `None` if never.
fn next_poll(shared: &Shared) -> Option<Duration> {
    let status = shared.status();
    if status.is_refreshing() {
        return Some(BUSY_POLL);
    }
    Some(status.next_attempt_in()?.clamp(BUSY_POLL, CLOCK_POLL))
}
