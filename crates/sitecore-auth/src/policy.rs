//! The numbers of the refresh policy, each with its reason, and the waits computed from them.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// How much earlier than [`RefreshPolicy::stale_from`] a token may become stale, as a fraction of
/// its lifetime. Drawn once per token, so that a fleet does not refresh all at once.
const STALE_SPREAD: f64 = 0.1;

/// The largest fraction of a lifetime that [`RefreshPolicy::margin`] may take, so that a
/// short-lived token can still be used.
const MAX_MARGIN_FRACTION: f64 = 0.1;

/// The longest pause before the second attempt of a refresh, doubled for each further attempt. A
/// brief interruption has passed by then.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// For how long a refresh repeats attempts that never reached the issuer. A network often comes up
/// some seconds after a program has started.
const UNREACHED_RETRY_TIME: Duration = Duration::from_secs(10);

/// The longest pause between such attempts.
const MAX_UNREACHED_PAUSE: Duration = Duration::from_secs(1);

/// An attempt does not start with less time left: the issuer would count a token request that we
/// cut off.
const MIN_ATTEMPT_TIME: Duration = Duration::from_secs(1);

/// How far a cooldown varies up and down, as a fraction of it, so that a fleet does not return all
/// at once.
const COOLDOWN_SPREAD: f64 = 0.25;

/// The largest fraction by which a wait requested by the server is extended. Auth0's quota windows
/// end on the hour for all clients.
const RETRY_AFTER_SPREAD: f64 = 0.1;

/// The wait before a token that replaced a rejected one is replaced in turn, doubled each time. An
/// API that rejects every token must not use up the quota.
const REJECTION_BACKOFF: Duration = Duration::from_secs(60);

/// The longest such wait, as a fraction of the token's lifetime.
const MAX_REJECTION_BACKOFF_FRACTION: f64 = 0.125;

/// The shortest wait after a refresh that returned no newer token. The issuer has a cache of its
/// own, which will expire.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// How long a new token settles, as a fraction of its lifetime. An API whose clock is behind, or
/// that caches the issuer's keys, accepts it by then.
const SETTLING_FRACTION: f64 = 0.01;

/// The shortest and the longest settling time. A short-lived token settles for at most a tenth of
/// its lifetime.
const SETTLING_TIME: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(900));
const MAX_SETTLING_FRACTION: f64 = 0.1;

/// How long at most a token is used if the source returned it again after it had expired here. The
/// source may be right: its token may never expire.
pub(crate) const MAX_REUSE: Duration = Duration::from_secs(300);

/// The longest cooldown of a refused client while callers are in need.
const MAX_REFUSED_IN_NEED: Duration = Duration::from_secs(300);

/// The highest [`RefreshPolicy::stale_from`]. Above it, a short-lived token would be unusable
/// before its refresh has ended.
const MAX_STALE_FROM: f64 = 0.85;

/// When to refresh, how long to try and how long to back off.
///
/// These are the numbers that you can change. Some further ones are fixed:
///
/// - A token becomes stale up to 10 % of its lifetime before [`stale_from`](Self::stale_from). The
///   point is drawn once per token.
/// - The pause before another attempt within a refresh is drawn from zero to 0.5 s, then to 1 s,
///   and so on. No attempt starts with less than 1 s left.
/// - A cooldown varies by 25 % up and down. A wait requested by the server is extended by up to 10
///   %.
/// - While there is no usable token, or it was rejected, the cooldown of a refused client grows to
///   only 5 min.
/// - A new token settles for 1 % of its lifetime before it is used, if the previous one is still
///   good. The settling time is at least 3 s and at most 15 min, but no more than a tenth of the
///   lifetime.
/// - If an API rejects a token that had already replaced a rejected one, the next replacement waits
///   for 1 min. The wait doubles up to an eighth of the token's lifetime. All rejections together
///   cause at most 6 token requests, plus one per hour. A token request does not count if the API
///   then accepts the new token, or if it is the first for an API that has accepted a token before.
/// - After a refresh that returned no newer token, the next one starts halfway through the current
///   token's remaining usable time, but after at least 30 s. If less than 30 s remain, it starts
///   when they end.
/// - A token that the source returns again after that token expired here is used for up to 5 min
///   more, but not beyond a JWT's own `exp`.
///
/// ```
/// # use std::time::Duration;
/// # use sitecore_auth::{RefreshPolicy, TokenCache};
/// # fn example(source: impl sitecore_auth::TokenSource) -> Result<(), sitecore_auth::Error> {
/// let mut policy = RefreshPolicy::default();
/// policy.refresh_timeout = Duration::from_secs(20);
/// let cache = TokenCache::builder(source).policy(policy).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RefreshPolicy {
    /// The fraction of its lifetime after which a token is stale at the latest; 0.8 by default, and
    /// 0.85 at most. During the rest of the lifetime, an outage of the issuer goes unnoticed.
    pub stale_from: f64,
    /// How long before its expiry a token is no longer sent; 60 s, but at most a tenth of the
    /// lifetime. The request must reach the API in time.
    pub margin: Duration,
    /// The lifetime of a token whose issuer specifies none, or zero; 5 min. A lifetime is never
    /// unlimited.
    pub unknown_lifetime: Duration,
    /// The longest accepted lifetime; 30 days. A misconfigured issuer must not disable refreshing.
    pub max_lifetime: Duration,
    /// The time limit of one refresh with all its attempts; 30 s. Callers should not wait longer
    /// than this.
    pub refresh_timeout: Duration,
    /// The number of token requests in one refresh while a caller waits for it; 3. Attempts that
    /// never reached the issuer do not count: they are repeated for up to 10 s, however many they
    /// are. If no caller waits, there is only one attempt: background refreshes must not make an
    /// outage worse.
    pub attempts_per_refresh: u32,
    /// The cooldown after a failed refresh while a token is usable and no API has rejected it; 30 s
    /// to 5 min. Callers still get a token.
    pub cooldown_with_token: Backoff,
    /// The cooldown after a failed refresh while there is no usable token, or it was rejected; 1 s
    /// to 30 s. Callers in need fail until it ends.
    pub cooldown_without_token: Backoff,
    /// The cooldown after the issuer refused the client; 1 min to 15 min, or to 5 min while callers
    /// are in need. Someone has to fix a setting.
    pub cooldown_refused: Backoff,
    /// The longest wait that a server can impose; 1 h. After that, a raised quota is noticed.
    pub max_retry_after: Duration,
    is_without_jitter: bool,
}

/// A wait that doubles from `first` to `max` with each consecutive failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Backoff {
    /// Creates a wait that doubles from `first` to `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// Returns the wait after this many consecutive failures, without jitter.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

impl Default for RefreshPolicy {
    fn default() -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        Self {
            stale_from: 0.8,
            margin: 60 * SECOND,
            unknown_lifetime: 300 * SECOND,
            max_lifetime: sitecore_token::MAX_LIFETIME,
            refresh_timeout: 30 * SECOND,
            attempts_per_refresh: 3,
            cooldown_with_token: Backoff::new(30 * SECOND, 300 * SECOND),
            cooldown_without_token: Backoff::new(SECOND, 30 * SECOND),
            cooldown_refused: Backoff::new(60 * SECOND, 900 * SECOND),
            max_retry_after: 3600 * SECOND,
            is_without_jitter: false,
        }
    }
}

impl RefreshPolicy {
    /// Returns this policy without its random parts, so that a test can assert exact times: a token
    /// becomes stale exactly at [`stale_from`](Self::stale_from), and each wait has exactly its
    /// length. The pause between two attempts of one refresh stays random.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn without_jitter(mut self) -> Self {
        self.is_without_jitter = true;
        self
    }

    /// Returns how long before its expiry a token with this lifetime is no longer sent.
    #[doc(hidden)]
    #[must_use]
    pub fn margin_for(&self, lifetime: Duration) -> Duration {
        self.margin.min(scale(lifetime, MAX_MARGIN_FRACTION))
    }

    /// Returns for how long a token with this lifetime is fresh.
    pub(crate) fn fresh_for(&self, lifetime: Duration, jitter: f64) -> Duration {
        scale(lifetime, self.stale_from - self.spread(STALE_SPREAD) * jitter)
    }

    /// Returns how long a new token with this lifetime settles. A key without expiry does not.
    pub(crate) fn settling_time(&self, lifetime: Option<Duration>) -> Duration {
        lifetime.map_or(Duration::ZERO, |lifetime| {
            let (shortest, longest) = SETTLING_TIME;
            let settling = scale(lifetime, SETTLING_FRACTION).clamp(shortest, longest);
            settling.min(scale(lifetime, MAX_SETTLING_FRACTION))
        })
    }

    /// Returns for how long the next refresh is deferred if the issuer had nothing newer, and the
    /// current token stays usable for `usable`.
    pub(crate) fn deferral(usable: Duration) -> Duration {
        (usable / 2).max(MIN_REFRESH_INTERVAL).min(usable)
    }

    /// Returns the least time that must be left when an attempt starts.
    pub(crate) fn min_attempt_time(&self) -> Duration {
        MIN_ATTEMPT_TIME.min(self.refresh_timeout / 2)
    }

    /// Returns the pause before the next attempt, after the last one failed with `error`.
    /// `attempts` counts the attempts of the same kind: those that reached the issuer, or those
    /// that did not. Returns `None` if there is no further attempt, or too little time for one.
    pub(crate) fn retry_pause(
        &self,
        error: &Error,
        attempts: u32,
        time_left: Duration,
        jitter: f64,
    ) -> Option<Duration> {
        let unreached = error.never_reached_issuer();
        let may_repeat = if unreached {
            self.refresh_timeout.saturating_sub(time_left) < UNREACHED_RETRY_TIME
        } else {
            attempts < self.attempts_per_refresh
        };
        // An adopted failure is not repeated here. The process that had it does that.
        if !error.is_transient() || !may_repeat || error.is_adopted() {
            return None;
        }
        let pause = match error.retry_after() {
            Some(wait) => self.retry_after_delay(wait, jitter),
            // The issuer did not say when the quota resets.
            None if error.kind() == ErrorKind::RateLimited => return None,
            None => {
                let max = if unreached { MAX_UNREACHED_PAUSE } else { self.refresh_timeout };
                let backoff = Backoff::new(FIRST_RETRY_PAUSE, max);
                scale(backoff.after(attempts), jitter)
            }
        };
        (pause.saturating_add(self.min_attempt_time()) <= time_left).then_some(pause)
    }

    /// Returns the length of a cooldown that the server did not specify. `in_need` says whether
    /// there is no usable token, or it was rejected.
    pub(crate) fn cooldown(
        &self,
        kind: ErrorKind,
        in_need: bool,
        failures: u32,
        jitter: f64,
    ) -> Duration {
        let refused = self.cooldown_refused;
        let backoff = match (kind, in_need) {
            (ErrorKind::Refused, true) => {
                // The longest wait must not be shorter than the first.
                Backoff::new(refused.first, refused.max.min(MAX_REFUSED_IN_NEED.max(refused.first)))
            }
            (ErrorKind::Refused, false) => refused,
            (_, true) => self.cooldown_without_token,
            (_, false) => self.cooldown_with_token,
        };
        let spread = self.spread(COOLDOWN_SPREAD);
        scale(backoff.after(failures), 1.0 - spread + 2.0 * spread * jitter)
    }

    /// Returns how long a wait that the server specified is honoured.
    pub(crate) fn retry_after_delay(&self, wait: Duration, jitter: f64) -> Duration {
        let spread = self.spread(RETRY_AFTER_SPREAD);
        scale(wait.min(self.max_retry_after), 1.0 + spread * jitter)
    }

    /// Returns how long to wait before replacing yet another rejected token, after `count`
    /// replacements in a row. For a key without expiry, the longest wait is that of
    /// `cooldown_refused`.
    pub(crate) fn rejection_delay(&self, lifetime: Option<Duration>, count: u32) -> Duration {
        let max = lifetime.map_or(self.cooldown_refused.max, |lifetime| {
            scale(lifetime, MAX_REJECTION_BACKOFF_FRACTION)
        });
        Backoff::new(REJECTION_BACKOFF, max.max(REJECTION_BACKOFF)).after(count)
    }

    fn spread(&self, spread: f64) -> f64 {
        if self.is_without_jitter { 0.0 } else { spread }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let config = |message: String| Err(Error::new(ErrorKind::Config, message));
        // Written so that NaN fails too.
        if !(self.stale_from > STALE_SPREAD && self.stale_from <= MAX_STALE_FROM) {
            return config(format!(
                "policy: stale_from must be above {STALE_SPREAD} and at most {MAX_STALE_FROM}, got {}",
                self.stale_from
            ));
        }
        let durations = [
            ("unknown_lifetime", self.unknown_lifetime),
            ("max_lifetime", self.max_lifetime),
            ("refresh_timeout", self.refresh_timeout),
            ("cooldown_with_token.first", self.cooldown_with_token.first),
            ("cooldown_without_token.first", self.cooldown_without_token.first),
            ("cooldown_refused.first", self.cooldown_refused.first),
            ("max_retry_after", self.max_retry_after),
        ];
        if let Some((name, _)) = durations.iter().find(|(_, duration)| duration.is_zero()) {
            return config(format!("policy: {name} must not be zero"));
        }
        let backoffs = [
            ("cooldown_with_token", self.cooldown_with_token),
            ("cooldown_without_token", self.cooldown_without_token),
            ("cooldown_refused", self.cooldown_refused),
        ];
        if let Some((name, _)) = backoffs.iter().find(|(_, backoff)| backoff.max < backoff.first) {
            return config(format!("policy: {name}.max must not be less than {name}.first"));
        }
        if self.attempts_per_refresh == 0 {
            return config("policy: attempts_per_refresh must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// Multiplies a duration; the result is capped where it does not fit.
fn scale(duration: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
