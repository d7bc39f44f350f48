//! The one place that time comes from: two clocks, because each of them lies at times.
//!
//! The monotonic clock stands still while the machine sleeps; the wall clock can be set back. What both
//! agree to be young is young.

use std::{fmt, time::Duration};

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// An instant by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// In nanoseconds: one number is compared faster than a `Duration`'s two. A reading goes to the middle of what it
    /// can hold, so that an instant that is reckoned from it is still ahead.
    monotonic: u64,
    wall: u64,
}

impl Now {
    /// An instant that never comes.
    pub(crate) const NEVER: Self = Self { monotonic: u64::MAX, wall: u64::MAX };

    /// Makes an instant of a monotonic reading (from any fixed origin) and of the time since the UNIX
    /// epoch. What is more than 292 years is cut to that.
    #[must_use]
    pub const fn new(monotonic: Duration, wall: Duration) -> Self {
        Self { monotonic: reading(monotonic), wall: reading(wall) }
    }

    /// Returns the monotonic clock's reading.
    #[must_use]
    pub const fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic)
    }

    /// Returns the wall clock's reading, since the UNIX epoch.
    #[must_use]
    pub const fn wall(&self) -> Duration {
        Duration::from_nanos(self.wall)
    }

    /// Returns the instant that is later by `time` on both clocks.
    pub(crate) fn after(self, time: Duration) -> Self {
        let time = nanos(time);
        Self {
            monotonic: self.monotonic.saturating_add(time),
            wall: self.wall.saturating_add(time),
        }
    }

    /// Returns the instant that is earlier by `time` on both clocks.
    pub(crate) fn before(self, time: Duration) -> Self {
        let time = nanos(time);
        Self {
            monotonic: self.monotonic.saturating_sub(time),
            wall: self.wall.saturating_sub(time),
        }
    }

    /// Returns this instant, but no later by the monotonic clock than `other`.
    pub(crate) fn not_after(self, other: Self) -> Self {
        Self { monotonic: self.monotonic.min(other.monotonic), ..self }
    }

    /// Tells whether either clock has come to `instant`.
    pub(crate) fn has_reached(self, instant: Self) -> bool {
        self.monotonic >= instant.monotonic || self.wall >= instant.wall
    }

    /// Returns the time until either clock comes to `instant`.
    pub(crate) fn until(self, instant: Self) -> Duration {
        let monotonic = instant.monotonic.saturating_sub(self.monotonic);
        Duration::from_nanos(monotonic.min(instant.wall.saturating_sub(self.wall)))
    }

    /// Returns the time since `then` by the clock that says more.
    pub(crate) fn age_since(self, then: Self) -> Duration {
        let wall = Duration::from_nanos(self.wall.saturating_sub(then.wall));
        self.elapsed_since(then).max(wall)
    }

    /// Returns the time since `then` by the monotonic clock: for work in progress, not for tokens.
    pub(crate) fn elapsed_since(self, then: Self) -> Duration {
        Duration::from_nanos(self.monotonic.saturating_sub(then.monotonic))
    }
}

const fn reading(time: Duration) -> u64 {
    const MOST: u64 = u64::MAX / 2;
    let nanos = nanos(time);
    if nanos > MOST { MOST } else { nanos }
}

const fn nanos(time: Duration) -> u64 {
    let nanos = time.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

/// The machine's clocks. On Linux the coarse ones: some milliseconds late, two reads for less than the
/// price of one exact read.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing to add: it is its own name")]
pub struct SystemClock;

#[cfg(target_os = "linux")]
impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Now {
        use rustix::time::{ClockId, clock_gettime};
        let read = |id| {
            let time = clock_gettime(id);
            // Both parts are in range unless the wall clock stands before 1970, and Linux ends before the middle.
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
            seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
        };
        Now { monotonic: read(ClockId::MonotonicCoarse), wall: read(ClockId::RealtimeCoarse) }
    }
}

#[cfg(not(target_os = "linux"))]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Now {
        use std::{
            sync::LazyLock,
            time::{Instant, SystemTime},
        };
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let origin = *ORIGIN;
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Now::new(origin.elapsed(), wall.unwrap_or_default())
    }
}

/// A clock for tests: it moves when it is told to. Clones are the same clock.
///
/// ```
/// use std::time::Duration;
/// use sitecore_auth::{ManualClock, Token, TokenCache, source_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), sitecore_auth::Error> {
/// let clock = ManualClock::new();
/// let source = source_fn(|_| async { Token::bearer("a-token", Duration::from_secs(900)) });
/// let cache = TokenCache::builder(source).clock(clock.clone()).build()?;
/// cache.token().await?;
/// clock.advance(Duration::from_secs(839));
/// assert!(cache.current().is_some());
/// clock.advance(Duration::from_secs(900));
/// assert!(cache.current().is_none());
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "test-util")]
#[derive(Clone, Debug)]
pub struct ManualClock(std::sync::Arc<std::sync::Mutex<Now>>);

#[cfg(feature = "test-util")]
impl ManualClock {
    /// Makes a clock that stands at some time in 2027.
    #[must_use]
    pub fn new() -> Self {
        let start = Now::new(Duration::from_secs(1_000_000), Duration::from_secs(1_800_000_000));
        Self(std::sync::Arc::new(std::sync::Mutex::new(start)))
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.change(|now| now.after(time));
    }

    /// Lets time pass while the machine sleeps: the monotonic clock stands still.
    pub fn suspend(&self, time: Duration) {
        self.change(|now| Now { wall: now.wall.saturating_add(nanos(time)), ..now });
    }

    /// Sets the wall clock, to a time since the UNIX epoch.
    pub fn set_wall(&self, wall: Duration) {
        let wall = nanos(wall);
        self.change(|now| Now { wall, ..now });
    }

    fn change(&self, change: impl FnOnce(Now) -> Now) {
        let mut now = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = change(*now);
    }
}

#[cfg(feature = "test-util")]
impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "test-util")]
impl Clock for ManualClock {
    fn now(&self) -> Now {
        let now = self.0.lock();
        let now = now.unwrap_or_else(std::sync::PoisonError::into_inner);
        Now::new(now.monotonic(), now.wall())
    }
}
