//! Renewal without traffic, for those who ask for it.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::warn;

use super::{Shared, TokenCache, refresh};

/// How often the clocks are looked at: a timer does not notice that the machine slept.
const LOOK: Duration = Duration::from_secs(30);

/// Between two looks at a refresh in flight, or at clocks that are about to reach an instant.
const SHORT_LOOK: Duration = Duration::from_millis(100);

impl TokenCache {
    /// Returns a future that keeps the token fresh while nobody calls: spawn it. It fetches a token if
    /// there is none, renews it when it is stale, and notices within 30 s that the machine slept.
    ///
    /// It holds the cache weakly, and ends when the last handle is dropped. For a key without expiry it
    /// idles. Outside a Tokio runtime, or in one without timers, it ends at once, with a warning.
    ///
    /// ```
    /// # fn example(cache: sitecore_auth::TokenCache) {
    /// tokio::spawn(cache.keep_fresh());
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the renewal; a refresh in flight goes on.
    pub fn keep_fresh(&self) -> impl Future<Output = ()> + Send + 'static {
        let weak = Arc::downgrade(&self.shared);
        let gone = Arc::clone(&self.shared.gone);
        async move {
            if let Err(error) = refresh::check_runtime() {
                warn!(cause = %error.cause(), "keep_fresh needs a Tokio runtime");
                return;
            }
            loop {
                let mut dropped = pin!(gone.notified());
                // From here on a drop is not missed.
                dropped.as_mut().enable();
                let Some(shared) = weak.upgrade() else { return };
                refresh::start_beside(&shared);
                let pause = shared.next_look();
                drop(shared);
                match pause {
                    Some(pause) => drop(timeout(pause, dropped).await),
                    None => dropped.await,
                }
            }
        }
    }
}

impl Shared {
    /// Returns when it makes sense to look again; `None` if never.
    fn next_look(&self) -> Option<Duration> {
        let status = self.status();
        if status.is_refreshing() {
            return Some(SHORT_LOOK);
        }
        Some(status.next_attempt_in()?.clamp(SHORT_LOOK, LOOK))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.gone.notify_waiters();
    }
}
