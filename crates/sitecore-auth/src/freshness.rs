//! How a token ages: pure functions of its lifetime and the time.

use std::time::Duration;

use crate::{clock::Moment, policy::RefreshPolicy};

/// The state of a token at some point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Freshness {
    /// Usable, no refresh needed.
    Fresh,
    /// Usable, refresh due.
    Stale,
    /// No longer usable.
    Expired,
}

#[cfg(feature = "serde")]
impl Freshness {
    /// Returns the state as a word for a status page.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Expired => "expired",
        }
    }
}

/// How long a token is valid, counted from when it was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    Known(Duration),
    /// The issuer did not specify one.
    Unknown,
    Unlimited,
}

/// When a token changes its state. Computed once, when the cache accepts the token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    /// When the lifetime began, or when an expired token was put to use again.
    pub(crate) issued_at: Moment,
    pub(crate) stale_at: Moment,
    pub(crate) unusable_at: Moment,
    /// Wall clock time since the UNIX epoch; `None` for a key without expiry.
    pub(crate) expires_at: Option<Duration>,
}

impl Lifetime {
    /// Returns the lifetime that the cache works with: at most the policy's longest, and never
    /// unknown.
    pub(crate) fn clamped(self, policy: &RefreshPolicy) -> Self {
        match self {
            Self::Known(lifetime) => Self::Known(lifetime.min(policy.max_lifetime)),
            Self::Unknown => Self::Known(policy.unknown_lifetime),
            Self::Unlimited => Self::Unlimited,
        }
    }
}

impl Validity {
    /// Computes the validity of a token that was already `age` old at `requested_at`. The lifetime
    /// must be a clamped one. `jitter` is drawn from `0.0..1.0`.
    pub(crate) fn new(
        policy: &RefreshPolicy,
        lifetime: Lifetime,
        age: Duration,
        requested_at: Moment,
        jitter: f64,
    ) -> Self {
        let Lifetime::Known(lifetime) = lifetime else {
            return Self {
                issued_at: requested_at,
                stale_at: Moment::NEVER,
                unusable_at: Moment::NEVER,
                expires_at: None,
            };
        };
        let at = |point: Duration| requested_at.after(point.saturating_sub(age));
        let usable = lifetime.saturating_sub(policy.margin_for(lifetime));
        let fresh = policy.fresh_for(lifetime, jitter);
        Self {
            issued_at: requested_at.before(age),
            stale_at: at(fresh.min(usable)),
            unusable_at: at(usable),
            expires_at: Some(at(lifetime).wall()),
        }
    }

    pub(crate) fn freshness(&self, now: Moment) -> Freshness {
        if !now.has_reached(self.stale_at) {
            Freshness::Fresh
        } else if !now.has_reached(self.unusable_at) {
            Freshness::Stale
        } else {
            Freshness::Expired
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::tests::duration;

    /// A plausible clock reading: up to a century and a half, well below the cap.
    fn reading() -> impl Strategy<Value = Duration> {
        (0_u64..5_000_000_000).prop_map(Duration::from_secs)
    }

    proptest! {
        #[test]
        fn a_usable_token_is_young_enough_by_both_clocks(
            lifetime in duration(), age in duration(), jitter in 0.0..1.0, monotonic in reading(), wall in reading(),
            since_monotonic in duration(), since_wall in duration(),
        ) {
            let policy = RefreshPolicy::default();
            let requested_at = Moment::new(monotonic, wall);
            let now = Moment::new(monotonic.saturating_add(since_monotonic), wall.saturating_add(since_wall));
            let clamped = Lifetime::Known(lifetime).clamped(&policy);
            let validity = Validity::new(&policy, clamped, age, requested_at, jitter);
            let lifetime = lifetime.min(Duration::from_secs(30 * 86_400));
            let freshness = validity.freshness(now);
            let age_now = age.saturating_add(since_monotonic.max(since_wall));
            if freshness != Freshness::Expired {
                // The margin is a minute or a tenth, so at most nine tenths can be used.
                prop_assert!(age_now < lifetime, "{lifetime:?} used for {age_now:?}");
                prop_assert!(
                    age_now < lifetime.saturating_sub(Duration::from_secs(60))
                        || age_now < lifetime.mul_f64(0.9000001)
                );
            }
            if freshness == Freshness::Fresh {
                prop_assert!(age_now < lifetime.mul_f64(0.8000001), "fresh after {age_now:?} of {lifetime:?}");
            }
            // No time is wasted: a token that is young by both clocks is usable.
            if age_now < lifetime.mul_f64(0.6999999) {
                prop_assert_eq!(freshness, Freshness::Fresh);
            }
        }
    }

    #[test]
    fn the_stale_point_covers_its_whole_range() {
        let second = Duration::from_secs(1);
        let requested_at = Moment::new(1_000_000 * second, 1_000_000 * second);
        let stale = |jitter| {
            let validity = Validity::new(
                &RefreshPolicy::default(),
                Lifetime::Known(1_000 * second),
                Duration::ZERO,
                requested_at,
                jitter,
            );
            validity.stale_at.elapsed_since(requested_at)
        };
        assert_eq!(
            (stale(0.0), stale(0.5), stale(1.0)),
            (800 * second, 750 * second, 700 * second)
        );
    }
}
