//! A clock that follows Tokio's paused time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use sitecore_auth::{Clock, Moment};
use tokio::time::Instant;

/// Reads Tokio's (paused) time as both the monotonic and the wall clock. The wall clock can be set.
#[derive(Clone, Debug)]
pub(crate) struct PausedClock {
    origin: Instant,
    wall: Arc<Mutex<Duration>>,
}

impl PausedClock {
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            wall: Arc::new(Mutex::new(Duration::from_secs(1_800_000_000))),
        }
    }

    /// Sets the wall clock forward, as a user does, or as happens while the machine is suspended.
    pub(crate) fn wall_forward(&self, by: Duration) {
        *self.wall.lock().unwrap() += by;
    }

    /// Sets the wall clock back.
    pub(crate) fn wall_back(&self, by: Duration) {
        *self.wall.lock().unwrap() -= by;
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Moment {
        // Far from zero, as on a machine that has been up for a while.
        let elapsed = self.origin.elapsed() + Duration::from_secs(100_000);
        Moment::new(elapsed, *self.wall.lock().unwrap() + elapsed)
    }
}
