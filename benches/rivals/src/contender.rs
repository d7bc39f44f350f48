//! A contender: a cache by name, with the functions that measure it, and what these take and
//! return.

use std::time::Duration;

use crate::issuer::Issuer;

/// A cache under comparison, its type erased.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// How it gets its tokens.
    pub(crate) setup: &'static str,
    pub(crate) warm: fn(&Issuer) -> Result<Warm, String>,
    pub(crate) cold_start: fn(&Issuer, ColdStart) -> Result<Outcome, String>,
    pub(crate) stale: fn(&Issuer, Issuing) -> Result<String, String>,
    pub(crate) runtime_gone: fn(&Issuer) -> Result<String, String>,
}

impl Contender {
    /// The index of our own cache among the contenders; the floor comes before it.
    pub(crate) const OURS: usize = 1;
}

/// A cache that has a token, in the runtime in which it was started.
pub(crate) struct Warm {
    /// Takes headers on this many threads at once and returns the nanoseconds per header.
    pub(crate) take: Box<dyn Fn(usize) -> f64>,
    /// Allocations per header.
    pub(crate) allocations: f64,
}

/// Concurrent callers of a cache without a token.
#[derive(Clone, Copy)]
pub(crate) struct ColdStart {
    pub(crate) callers: usize,
    /// How long the issuer takes.
    pub(crate) delay: Duration,
    pub(crate) fails: bool,
    /// When one more caller, which came first, is dropped.
    pub(crate) first_dropped: Option<Duration>,
}

/// The result of a cold start.
pub(crate) enum Outcome {
    /// The cache cannot start without a token.
    NeedsFirstToken,
    /// Some callers were not done in time.
    TimedOut { token_requests: u64 },
    Done {
        token_requests: u64,
        failed: usize,
        /// Per caller, in milliseconds, sorted.
        times: Vec<f64>,
        /// From the issuer's last response until the last caller was done, in milliseconds.
        lag: f64,
    },
}

/// What the issuer does while the token is stale.
#[derive(Clone, Copy)]
pub(crate) enum Issuing {
    Slowly,
    Failing,
}
