//! The only source of time.
//!
//! Neither clock can be trusted alone: the monotonic clock stops while the machine sleeps, and the
//! wall clock can be set back. A token's age is the greater of its ages by the two clocks.

#[cfg(feature = "test-util")]
mod manual;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::contain::contain;

#[cfg(feature = "test-util")]
pub use self::manual::ManualClock;

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Reads both clocks.
    fn now(&self) -> Moment;
}

/// A point in time, as read from both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    /// Nanoseconds, because comparing one integer is faster than comparing two `Duration`s. A
    /// reading is at most half of what fits, so that a later moment computed from it is still in
    /// the future.
    monotonic: u64,
    wall: u64,
}

impl Moment {
    /// A moment that is never reached.
    pub(crate) const NEVER: Self = Self { monotonic: u64::MAX, wall: u64::MAX };

    /// A moment that has always been reached.
    pub(crate) const PAST: Self = Self { monotonic: 0, wall: 0 };

    /// Creates a moment from a monotonic reading (relative to any fixed origin) and the time since
    /// the UNIX epoch. Values above 292 years are capped.
    #[must_use]
    pub const fn new(monotonic: Duration, wall: Duration) -> Self {
        Self { monotonic: reading(monotonic), wall: reading(wall) }
    }

    /// Returns the reading of the monotonic clock.
    #[must_use]
    pub const fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic)
    }

    /// Returns the reading of the wall clock, as the time since the UNIX epoch.
    #[must_use]
    pub const fn wall(&self) -> Duration {
        Duration::from_nanos(self.wall)
    }

    /// Returns the moment `time` later on both clocks.
    pub(crate) fn after(self, time: Duration) -> Self {
        let time = nanos(time);
        Self {
            monotonic: self.monotonic.saturating_add(time),
            wall: self.wall.saturating_add(time),
        }
    }

    /// Returns the moment `time` earlier on both clocks.
    pub(crate) fn before(self, time: Duration) -> Self {
        let time = nanos(time);
        Self {
            monotonic: self.monotonic.saturating_sub(time),
            wall: self.wall.saturating_sub(time),
        }
    }

    /// Returns the moment that is reached as soon as either of the two is.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { monotonic: self.monotonic.min(other.monotonic), wall: self.wall.min(other.wall) }
    }

    /// Returns a moment that is reached only when both are.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { monotonic: self.monotonic.max(other.monotonic), wall: self.wall.max(other.wall) }
    }

    /// Returns the same moment by the monotonic clock only, so that setting the wall clock does not
    /// bring it closer.
    pub(crate) fn monotonic_only(self) -> Self {
        Self { wall: u64::MAX, ..self }
    }

    /// Returns `true` if either clock has reached `moment`.
    pub(crate) fn has_reached(self, moment: Self) -> bool {
        self.monotonic >= moment.monotonic || self.wall >= moment.wall
    }

    /// Returns the time until the first of the two clocks reaches `moment`.
    pub(crate) fn until(self, moment: Self) -> Duration {
        let monotonic = moment.monotonic.saturating_sub(self.monotonic);
        Duration::from_nanos(monotonic.min(moment.wall.saturating_sub(self.wall)))
    }

    /// Returns the time since `then`, by the clock that has advanced further.
    pub(crate) fn age_since(self, then: Self) -> Duration {
        let wall = Duration::from_nanos(self.wall.saturating_sub(then.wall));
        self.elapsed_since(then).max(wall)
    }

    /// Returns the time since `then` on the monotonic clock. Use it for work in progress, not for
    /// tokens.
    pub(crate) fn elapsed_since(self, then: Self) -> Duration {
        Duration::from_nanos(self.monotonic.saturating_sub(then.monotonic))
    }
}

const fn reading(time: Duration) -> u64 {
    const MAX: u64 = u64::MAX / 2;
    let nanos = nanos(time);
    if nanos > MAX { MAX } else { nanos }
}

const fn nanos(time: Duration) -> u64 {
    let nanos = time.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

/// The clock of a cache: the machine's, which is read without dynamic dispatch, or the program's
/// own. If the program's clock panics, its time stands still.
#[derive(Debug, Default)]
pub(crate) struct CacheClock(Option<(Arc<dyn Clock>, Mutex<Moment>)>);

impl CacheClock {
    pub(crate) fn new(clock: Option<Arc<dyn Clock>>) -> Self {
        Self(clock.map(|clock| (clock, Mutex::new(Moment::PAST))))
    }

    /// Returns by how much it may lag behind an exact clock.
    pub(crate) fn lag(&self) -> Duration {
        match self.0 {
            None if cfg!(target_os = "linux") => Duration::from_millis(10),
            _ => Duration::ZERO,
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> Moment {
        let Some((clock, last)) = &self.0 else { return SystemClock.now() };
        let now = contain(|| clock.now());
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = now.unwrap_or(*last);
        *last
    }
}

/// The machine's clocks.
///
/// On Linux these are the coarse clocks. They lag by a few milliseconds, but reading both costs
/// less than one exact reading.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "marker type")]
pub struct SystemClock;

#[cfg(target_os = "linux")]
impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Moment {
        use rustix::time::{ClockId, clock_gettime};
        let read = |id| {
            let time = clock_gettime(id);
            // Out of range only if the wall clock is set to a date before 1970.
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
            seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
        };
        Moment { monotonic: read(ClockId::MonotonicCoarse), wall: read(ClockId::RealtimeCoarse) }
    }
}

#[cfg(not(target_os = "linux"))]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Moment {
        use std::{
            sync::LazyLock,
            time::{Instant, SystemTime},
        };
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let origin = *ORIGIN;
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Moment::new(origin.elapsed(), wall.unwrap_or_default())
    }
}
