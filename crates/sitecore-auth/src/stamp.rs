//! What becomes of a token with time: pure functions of its life and the instant.

use std::time::Duration;

use crate::{RefreshPolicy, clock::Now, policy::part};

/// How good a token is at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Freshness {
    /// Young: nothing is to be done.
    Fresh,
    /// Usable, and it is time to renew it.
    Stale,
    /// Never to be sent again.
    Expired,
}

/// How long a token lives from its issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Known(Duration),
    /// The issuer did not say.
    Unknown,
    Endless,
}

/// The instants that a token's life turns on, fixed when the cache takes it in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// When the life began.
    pub(crate) issued: Now,
    pub(crate) stale: Now,
    pub(crate) unusable: Now,
    /// By the wall clock, since the UNIX epoch; `None` for a key without expiry.
    pub(crate) expires_at: Option<Duration>,
}

impl Life {
    /// Returns the life that is believed: never longer than the longest, never unknown.
    pub(crate) fn believed(self, policy: &RefreshPolicy) -> Self {
        match self {
            Self::Known(life) => Self::Known(life.min(policy.max_lifetime)),
            Self::Unknown => Self::Known(policy.unknown_lifetime),
            Self::Endless => Self::Endless,
        }
    }
}

impl Stamp {
    /// Stamps a life (a believed one) that was `age` old when the source was asked for it at `asked`.
    /// `draw` is from `0.0..1.0`.
    pub(crate) fn new(
        policy: &RefreshPolicy,
        life: Life,
        age: Duration,
        asked: Now,
        draw: f64,
    ) -> Self {
        let Life::Known(life) = life else {
            return Self {
                issued: asked,
                stale: Now::NEVER,
                unusable: Now::NEVER,
                expires_at: None,
            };
        };
        let at = |point: Duration| asked.after(point.saturating_sub(age));
        let use_ends = life.saturating_sub(policy.margin.min(part(life, policy.margin_part)));
        let stale = part(life, policy.stale_from - policy.stale_spread * draw);
        Self {
            issued: asked.before(age),
            stale: at(stale.min(use_ends)),
            unusable: at(use_ends),
            expires_at: Some(at(life).wall()),
        }
    }

    pub(crate) fn freshness(&self, now: Now) -> Freshness {
        if !now.has_reached(self.stale) {
            Freshness::Fresh
        } else if !now.has_reached(self.unusable) {
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

    /// What a clock may say: up to a century and a half, far from where readings are cut.
    fn reading() -> impl Strategy<Value = Duration> {
        (0_u64..5_000_000_000).prop_map(Duration::from_secs)
    }

    proptest! {
        #[test]
        fn what_is_usable_is_before_the_instant_by_both_clocks(
            life in duration(), age in duration(), draw in 0.0..1.0, monotonic in reading(), wall in reading(),
            since_monotonic in duration(), since_wall in duration(),
        ) {
            let policy = RefreshPolicy::default();
            let asked = Now::new(monotonic, wall);
            let now = Now::new(monotonic.saturating_add(since_monotonic), wall.saturating_add(since_wall));
            let stamp = Stamp::new(&policy, Life::Known(life).believed(&policy), age, asked, draw);
            let life = life.min(Duration::from_secs(30 * 86_400));
            let freshness = stamp.freshness(now);
            if freshness != Freshness::Expired {
                // The margin is a minute or a tenth, so nine tenths are all that can be used.
                let used = age.saturating_add(since_monotonic.max(since_wall));
                prop_assert!(used < life, "{life:?} used for {used:?}");
                prop_assert!(used < life.saturating_sub(Duration::from_secs(60)) || used < life.mul_f64(0.9000001));
            }
            if freshness == Freshness::Fresh {
                let used = age.saturating_add(since_monotonic.max(since_wall));
                prop_assert!(used < life.mul_f64(0.8000001), "fresh after {used:?} of {life:?}");
            }
            // And nothing is given away: what is young by both clocks is usable.
            let used = age.saturating_add(since_monotonic.max(since_wall));
            if used < life.mul_f64(0.6999999) {
                prop_assert_eq!(freshness, Freshness::Fresh);
            }
        }
    }

    #[test]
    fn the_stale_point_is_drawn_from_end_to_end() {
        let second = Duration::from_secs(1);
        let asked = Now::new(1_000_000 * second, 1_000_000 * second);
        let stale = |draw| {
            let stamp = Stamp::new(
                &RefreshPolicy::default(),
                Life::Known(1_000 * second),
                Duration::ZERO,
                asked,
                draw,
            );
            stamp.stale.elapsed_since(asked)
        };
        assert_eq!(
            (stale(0.0), stale(0.5), stale(1.0)),
            (800 * second, 750 * second, 700 * second)
        );
    }
}
