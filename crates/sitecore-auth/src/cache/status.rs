//! What a health endpoint wants to know of a cache.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};

use super::{Shared, TokenCache};
use crate::{Error, Fingerprint, Freshness, Quota, Token, clock::Now};

/// A cache at one instant. Shows no secret.
#[derive(Clone)]
pub struct CacheStatus {
    pub(super) now: Now,
    pub(super) held: Option<Token>,
    pub(super) freshness: Option<Freshness>,
    pub(super) next_attempt_in: Option<Duration>,
    pub(super) refreshing: bool,
    pub(super) last_error: Option<Error>,
    pub(super) grants: u64,
}

impl TokenCache {
    /// Describes the cache as it is now. Never waits for a refresh.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        self.shared.status()
    }
}

impl CacheStatus {
    /// Returns how good the token held is; `None` if none was ever held.
    #[must_use]
    pub fn freshness(&self) -> Option<Freshness> {
        self.freshness
    }

    /// Tells whether callers get a token without waiting.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self.freshness, Some(Freshness::Fresh | Freshness::Stale))
    }

    /// Returns the short hash of the token held.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.held.as_ref().map(Token::fingerprint)
    }

    /// Returns how old the token held is, by the clock that says more.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let stamp = self.held.as_ref()?.0.stamp.as_ref()?;
        Some(self.now.age_since(stamp.issued))
    }

    /// Returns how much longer the token held is handed out; zero if it is expired, `None` if there is
    /// none or it has no expiry.
    #[must_use]
    pub fn usable_for(&self) -> Option<Duration> {
        let unusable = self.held.as_ref()?.unusable_from();
        (unusable != Now::NEVER).then(|| self.now.until(unusable))
    }

    /// Returns when the issuer lets the token held die; `None` if there is none or it has no expiry.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.held.as_ref()?.expires_at()
    }

    /// Returns why the last refresh failed; `None` if it did not. That an API refuses each new token is no failure of
    /// a refresh, and does not show here.
    #[must_use]
    pub fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// Returns the time until the source is next asked, if somebody calls; `None` for a key without
    /// expiry. An API that refuses the token held can have it asked before.
    #[must_use]
    pub fn next_attempt_in(&self) -> Option<Duration> {
        self.next_attempt_in
    }

    /// Tells whether a refresh is in flight.
    #[must_use]
    pub fn is_refreshing(&self) -> bool {
        self.refreshing
    }

    /// Returns how often the source has been asked since the cache was made, whatever it answered.
    #[must_use]
    pub fn grants(&self) -> u64 {
        self.grants
    }

    /// Returns what the issuer said about its quota with the token held.
    #[must_use]
    pub fn quota(&self) -> Option<&Quota> {
        self.held.as_ref()?.quota()
    }
}

impl fmt::Debug for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheStatus")
            .field("freshness", &self.freshness)
            .field("fingerprint", &self.fingerprint().map(|hash| hash.to_string()))
            .field("age", &self.age())
            .field("usable_for", &self.usable_for())
            .field("next_attempt_in", &self.next_attempt_in)
            .field("is_refreshing", &self.refreshing)
            .field("last_error", &self.last_error)
            .field("grants", &self.grants)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Describes the cache as it is now.
    pub(super) fn status(&self) -> CacheStatus {
        let now = self.now();
        let state = self.state.lock();
        let held = self.held.load();
        let gate = state.gate.as_ref();
        let again = || {
            let by = state.granted_again.as_ref();
            by.map(|by| state.granted_again_error(by, now))
        };
        let due = held.as_ref().map_or(now, Token::stale_from);
        let waits = [
            now.until(due),
            state.spaced_until.map_or(Duration::ZERO, |until| now.until(until)),
            gate.map_or(Duration::ZERO, |gate| gate.left(now)),
        ];
        CacheStatus {
            now,
            freshness: held.as_ref().map(|held| held.freshness(now)),
            next_attempt_in: waits.into_iter().max().filter(|_| due != Now::NEVER),
            refreshing: state.flight.as_ref().is_some_and(|flight| !flight.is_lost(now)),
            last_error: gate.map(|gate| gate.error(now)).or_else(again),
            grants: state.grants,
            held,
        }
    }
}
