//! The numbers, each with its reason, and the waits that follow from them.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// When to renew, how long to try, how long to wait: every number of the cache.
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
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RefreshPolicy {
    /// The part of its life after which a token is stale, at the latest; 0.8. The rest is the time in
    /// which an outage of the issuer goes unnoticed.
    pub stale_from: f64,
    /// By how much earlier a token may become stale, as a part of its life, drawn once per token; 0.1.
    /// A fleet does not renew in one instant.
    pub stale_spread: f64,
    /// How long before its end a token is no longer sent; 60 s. The request must still arrive.
    pub margin: Duration,
    /// The margin's greatest part of the life; 0.1. A short token keeps its use.
    pub margin_part: f64,
    /// The life of a token whose issuer names none, or zero; 5 min. Never for ever.
    pub unknown_lifetime: Duration,
    /// The longest life believed; 30 days. A typing error at the issuer must not disable renewal.
    pub max_lifetime: Duration,
    /// Time for one refresh with all its grants; 30 s. Who waits has a life of their own.
    pub refresh_timeout: Duration,
    /// Grants in one refresh, while somebody waits for it; 3. One grant when nobody does: an outage must
    /// not be tripled by those who don't need an answer.
    pub grants_per_refresh: u32,
    /// The longest pause before the second grant, doubled for each further one; 0.5 s. A hiccup is over
    /// by then.
    pub retry_pause: Duration,
    /// No grant begins with less time left; 1 s. It would be cut off after the issuer has counted it.
    pub least_time: Duration,
    /// The gate after a failed refresh while a token is usable; 30 s to 5 min. Nobody is in need.
    pub gate_with_token: Backoff,
    /// The gate after a failed refresh without a usable token; 1 s to 30 s. Everybody is in need.
    pub gate_without_token: Backoff,
    /// The gate after the issuer refused the client; 1 min to 15 min. Somebody has to mend a setting.
    pub gate_refused: Backoff,
    /// By which part the gates vary up and down; 0.25. A fleet does not come back in one instant.
    pub gate_spread: f64,
    /// The longest wait that a server can impose, before it is spread; 1 h. The quota may have been raised.
    pub max_retry_after: Duration,
    /// By which part a server's wait is lengthened at most; 0.1. Auth0's windows end on the hour for
    /// everybody.
    pub retry_after_spread: f64,
    /// The wait before a token that itself replaced a refused one is replaced again, doubling; 1 min.
    /// An API that refuses every token must not eat the quota of those that don't.
    pub refused_wait: Duration,
    /// The greatest such wait, as a part of the token's life; 1/8.
    pub refused_wait_part: f64,
    /// The least wait after an answer that was no newer than the token held; 30 s. The issuer has its own
    /// cache, and it will turn over.
    pub least_spacing: Duration,
}

/// A wait that doubles from `first` to `max` with each failure in a row, before it is
/// [spread](RefreshPolicy::gate_spread).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub max: Duration,
}

impl Backoff {
    /// Makes a wait that doubles from `first` to `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// Returns the wait after so many failures in a row, before it is spread.
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
            stale_spread: 0.1,
            margin: 60 * SECOND,
            margin_part: 0.1,
            unknown_lifetime: 300 * SECOND,
            max_lifetime: sitecore_token::MAX_LIFETIME,
            refresh_timeout: 30 * SECOND,
            grants_per_refresh: 3,
            retry_pause: Duration::from_millis(500),
            least_time: SECOND,
            gate_with_token: Backoff::new(30 * SECOND, 300 * SECOND),
            gate_without_token: Backoff::new(SECOND, 30 * SECOND),
            gate_refused: Backoff::new(60 * SECOND, 900 * SECOND),
            gate_spread: 0.25,
            max_retry_after: 3600 * SECOND,
            retry_after_spread: 0.1,
            refused_wait: 60 * SECOND,
            refused_wait_part: 0.125,
            least_spacing: 30 * SECOND,
        }
    }
}

impl RefreshPolicy {
    /// Returns the pause before the next grant of a refresh that failed with `error` after `grants` of
    /// them, with `left` of its time; `None` if it is over.
    pub(crate) fn pause(
        &self,
        error: &Error,
        grants: u32,
        left: Duration,
        draw: f64,
    ) -> Option<Duration> {
        if !error.is_transient() || grants >= self.grants_per_refresh {
            return None;
        }
        let pause = match error.retry_after() {
            Some(wait) => self.server_wait(wait, draw),
            None => part(Backoff::new(self.retry_pause, self.refresh_timeout).after(grants), draw),
        };
        (pause.saturating_add(self.least_time) <= left).then_some(pause)
    }

    /// Returns how long a gate of our own making stays closed.
    pub(crate) fn own_wait(&self, backoff: Backoff, failures: u32, draw: f64) -> Duration {
        part(backoff.after(failures), 1.0 - self.gate_spread + 2.0 * self.gate_spread * draw)
    }

    /// Returns how long a wait that the server named is honoured.
    pub(crate) fn server_wait(&self, wait: Duration, draw: f64) -> Duration {
        part(wait.min(self.max_retry_after), 1.0 + self.retry_after_spread * draw)
    }

    /// Returns how long a token must wait to be replaced if it is refused, being the `grants`th in a row
    /// that replaced a refused one. A key without expiry waits no longer than a refused client.
    pub(crate) fn refused_wait(&self, lifetime: Option<Duration>, grants: u32) -> Duration {
        let most =
            lifetime.map_or(self.gate_refused.max, |life| part(life, self.refused_wait_part));
        Backoff::new(self.refused_wait, most.max(self.refused_wait)).after(grants)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let parts = [
            ("stale_from", self.stale_from),
            ("stale_spread", self.stale_spread),
            ("margin_part", self.margin_part),
            ("gate_spread", self.gate_spread),
            ("retry_after_spread", self.retry_after_spread),
            ("refused_wait_part", self.refused_wait_part),
        ];
        let config = |message: String| Err(Error::new(ErrorKind::Config, message));
        if let Some((name, value)) = parts.iter().find(|(_, part)| !(0.0..=1.0).contains(part)) {
            return config(format!("policy: {name} is {value}: give a part from 0 to 1"));
        }
        if self.stale_spread >= self.stale_from || self.stale_from > 1.0 - self.margin_part {
            return config(format!(
                "policy: a token must become stale after its start and before its margin: \
                 stale_spread {} < stale_from {} ≤ 1 - margin_part {}",
                self.stale_spread, self.stale_from, self.margin_part
            ));
        }
        let durations = [
            ("unknown_lifetime", self.unknown_lifetime),
            ("max_lifetime", self.max_lifetime),
            ("refresh_timeout", self.refresh_timeout),
            ("gate_with_token.first", self.gate_with_token.first),
            ("gate_without_token.first", self.gate_without_token.first),
            ("gate_refused.first", self.gate_refused.first),
            ("max_retry_after", self.max_retry_after),
            ("refused_wait", self.refused_wait),
            ("least_spacing", self.least_spacing),
        ];
        if let Some((name, _)) = durations.iter().find(|(_, duration)| duration.is_zero()) {
            return config(format!("policy: {name} is zero: give it a duration"));
        }
        if self.gate_spread >= 1.0 {
            return config(
                "policy: gate_spread is 1: a gate must not open at once, give less".to_owned(),
            );
        }
        let backoffs = [
            ("gate_with_token", self.gate_with_token),
            ("gate_without_token", self.gate_without_token),
            ("gate_refused", self.gate_refused),
        ];
        if let Some((name, _)) = backoffs.iter().find(|(_, backoff)| backoff.max < backoff.first) {
            return config(format!("policy: {name} ends below its start: give a longer max"));
        }
        if self.grants_per_refresh == 0 {
            return config("policy: grants_per_refresh is 0: give 1 or more".to_owned());
        }
        Ok(())
    }
}

/// A part of a duration, or a little more than all of it; as long as can be where that is too much.
pub(crate) fn part(duration: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Some seconds, or as many as a number can hold.
    pub(crate) fn duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0_u64..100_000, 0_u32..1_000_000_000)
                .prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)),
            (0_u64..=1_000_000_000_000_000_000).prop_map(Duration::from_secs),
        ]
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds(failures in 0_u32..200, draw in 0.0..1.0, wait in duration()) {
            let policy = RefreshPolicy::default();
            for backoff in [policy.gate_with_token, policy.gate_without_token, policy.gate_refused] {
                let own = policy.own_wait(backoff, failures, draw);
                prop_assert!(own >= backoff.first.mul_f64(0.75) && own <= backoff.max.mul_f64(1.25));
            }
            let named = policy.server_wait(wait, draw);
            let hour = Duration::from_secs(3600);
            prop_assert!(named >= wait.min(hour) && named <= hour.mul_f64(1.1));
            let refused = policy.refused_wait(Some(Duration::from_secs(86_400)), failures);
            prop_assert!(refused >= Duration::from_secs(60) && refused <= 3 * hour);
        }
    }

    #[test]
    fn draws_reach_from_end_to_end() {
        let policy = RefreshPolicy::default();
        let second = Duration::from_secs(1);
        let own = |draw| policy.own_wait(Backoff::new(100 * second, 100 * second), 1, draw);
        assert_eq!((own(0.0), own(0.5), own(1.0)), (75 * second, 100 * second, 125 * second));
        assert_eq!(policy.server_wait(100 * second, 1.0), 110 * second);
    }

    #[test]
    fn a_pause_is_taken_only_where_it_helps() {
        let policy = RefreshPolicy::default();
        let second = Duration::from_secs(1);
        let transient = Error::new(ErrorKind::Unavailable, "");
        let limited = |wait| Error::new(ErrorKind::RateLimited, "").with_retry_after(wait);
        assert_eq!(policy.pause(&transient, 1, 30 * second, 1.0), Some(second / 2));
        assert_eq!(policy.pause(&transient, 2, 30 * second, 1.0), Some(second));
        assert_eq!(policy.pause(&transient, 2, 30 * second, 0.5), Some(second / 2));
        // Three grants are all.
        assert_eq!(policy.pause(&transient, 3, 30 * second, 0.0), None);
        // A second must be left behind the pause.
        assert_eq!(policy.pause(&transient, 1, second + second / 2, 1.0), Some(second / 2));
        assert_eq!(policy.pause(&transient, 1, second + second / 4, 1.0), None);
        assert_eq!(policy.pause(&limited(5 * second), 1, 30 * second, 0.0), Some(5 * second));
        assert_eq!(policy.pause(&limited(30 * second), 1, 30 * second, 0.0), None);
        for kind in [ErrorKind::Refused, ErrorKind::Malformed, ErrorKind::Config] {
            assert_eq!(policy.pause(&Error::new(kind, ""), 1, 30 * second, 0.0), None);
        }
    }
}
