//! The rate limit of the Delivery API.

use super::keys::now;

/// Requests per second. The real limit applies only to uncached requests.
pub(crate) const LIMIT: u32 = 80;

/// Counts the requests within one second.
#[derive(Debug, Default)]
pub(crate) struct Window {
    second: u64,
    taken: u32,
}

impl Window {
    /// Counts a request and returns how many are left in this second, or `None` if the
    /// limit is exceeded.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let second = now().as_secs();
        if self.second != second {
            *self = Self { second, taken: 0 };
        }
        let left = LIMIT.checked_sub(self.taken + 1)?;
        self.taken += 1;
        Some(left)
    }
}
