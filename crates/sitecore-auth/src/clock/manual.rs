//! A clock that tests move by hand.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Clock, Moment, nanos};

/// A clock for tests that moves only when told to. Clones share the time.
///
/// Ages and cooldowns follow this clock. Time limits, and the pauses between the attempts of one
/// refresh, use Tokio's timer.
///
/// ```
/// use std::{sync::atomic::{AtomicU32, Ordering}, time::Duration};
/// use sitecore_auth::{ManualClock, Token, TokenCache, source_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), sitecore_auth::Error> {
/// let clock = ManualClock::new();
/// let granted = AtomicU32::new(0);
/// let source = source_fn(move |_| {
///     let number = granted.fetch_add(1, Ordering::Relaxed);
///     async move { Token::bearer(format!("token-{number}"), Duration::from_secs(900)) }
/// });
/// let cache = TokenCache::builder(source).clock(clock.clone()).build()?;
/// let first = cache.token().await?;
/// clock.advance(Duration::from_secs(839));
/// assert_eq!(cache.current().map(|token| token.fingerprint()), Some(first.fingerprint()));
/// clock.advance(Duration::from_secs(900));
/// assert!(cache.current().is_none());
/// assert_ne!(cache.token().await?.fingerprint(), first.fingerprint());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Moment>>);

impl ManualClock {
    /// Creates a clock that is set to some time in 2027.
    #[must_use]
    pub fn new() -> Self {
        let start = Moment::new(Duration::from_secs(1_000_000), Duration::from_secs(1_800_000_000));
        Self(Arc::new(Mutex::new(start)))
    }

    /// Advances both clocks.
    pub fn advance(&self, time: Duration) {
        self.change(|now| now.after(time));
    }

    /// Advances the wall clock only, as if the machine had slept.
    pub fn suspend(&self, time: Duration) {
        self.change(|now| Moment { wall: now.wall.saturating_add(nanos(time)), ..now });
    }

    /// Sets the wall clock to a time since the UNIX epoch.
    pub fn set_wall(&self, wall: Duration) {
        let wall = nanos(wall);
        self.change(|now| Moment { wall, ..now });
    }

    fn change(&self, change: impl FnOnce(Moment) -> Moment) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = change(*now);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        let now = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Moment::new(now.monotonic(), now.wall())
    }
}
