//! reqwest-retry around the middleware: which errors are worth another attempt, and when.

use std::{
    cell::Cell,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use reqwest::Response;
use reqwest_retry::{
    DefaultRetryableStrategy, RetryDecision, RetryPolicy, RetryTransientMiddleware, Retryable,
    RetryableStrategy,
};

use crate::error::Error;

/// How long a call waits at most, by default.
const MAX_WAIT: Duration = Duration::from_secs(60);

thread_local! {
    /// The wait in the result that was inspected last. reqwest-retry asks the policy right after
    /// the strategy, on the same thread.
    static WAIT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A strategy and a policy for reqwest-retry that understand this crate's errors. By default,
/// reqwest-retry treats every error of a middleware as fatal.
///
/// If there was no token, a call is repeated only if the error [is transient](Error::is_transient),
/// and not before the time that [`retry_after`](Error::retry_after) says. Responses and other
/// errors are left to reqwest-retry's default strategy.
///
/// Add it before the middleware, so that each attempt gets a current token:
///
/// ```
/// # fn example(auth: sitecore_auth::AuthMiddleware) -> reqwest::Result<reqwest_middleware::ClientWithMiddleware> {
/// use reqwest::redirect::Policy;
/// use reqwest_middleware::ClientBuilder;
/// use reqwest_retry::policies::ExponentialBackoff;
/// use sitecore_auth::HonourRetryAfter;
///
/// let backoff = ExponentialBackoff::builder().build_with_max_retries(3);
/// let http = reqwest::Client::builder().redirect(auth.redirect_policy(Policy::default())).build()?;
/// Ok(ClientBuilder::new(http).with(HonourRetryAfter::new(backoff).into_middleware()).with(auth).build())
/// # }
/// ```
#[derive(Clone)]
pub struct HonourRetryAfter {
    backoff: Arc<dyn RetryPolicy + Send + Sync>,
    max_wait: Duration,
}

impl HonourRetryAfter {
    /// Creates a strategy that takes the number of attempts and the pauses from this policy.
    pub fn new(backoff: impl RetryPolicy + Send + Sync + 'static) -> Self {
        Self { backoff: Arc::new(backoff), max_wait: MAX_WAIT }
    }

    /// Sets the longest wait; 60 s by default. If the next token request is further away, the call
    /// fails at once.
    #[must_use]
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// Returns the middleware of reqwest-retry with this strategy and policy.
    #[must_use]
    pub fn into_middleware(self) -> RetryTransientMiddleware<Self, Self> {
        RetryTransientMiddleware::new_with_policy_and_strategy(self.clone(), self)
    }
}

impl RetryableStrategy for HonourRetryAfter {
    fn handle(&self, result: &reqwest_middleware::Result<Response>) -> Option<Retryable> {
        let found = result.as_ref().err().and_then(|error| Error::find(error));
        let wait = found.and_then(Error::retry_after).unwrap_or_default();
        WAIT.set(wait);
        let Some(error) = found else {
            return DefaultRetryableStrategy.handle(result);
        };
        let is_fatal = !error.is_transient() || wait > self.max_wait;
        Some(if is_fatal { Retryable::Fatal } else { Retryable::Transient })
    }
}

impl RetryPolicy for HonourRetryAfter {
    fn should_retry(&self, started: SystemTime, retries: u32) -> RetryDecision {
        let decision = self.backoff.should_retry(started, retries);
        let RetryDecision::Retry { execute_after } = decision else {
            return decision;
        };
        RetryDecision::Retry { execute_after: execute_after.max(later(WAIT.get())) }
    }
}

/// Returns the time after this wait, or after a day if the clock cannot represent that time.
#[expect(clippy::disallowed_methods, reason = "reqwest-retry works with this clock")]
fn later(wait: Duration) -> SystemTime {
    const DAY: Duration = Duration::from_secs(86_400);
    let now = SystemTime::now();
    now.checked_add(wait).unwrap_or(now + DAY)
}

impl fmt::Debug for HonourRetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HonourRetryAfter").field("max_wait", &self.max_wait).finish_non_exhaustive()
    }
}
