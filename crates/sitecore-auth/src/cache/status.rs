//! A snapshot of a cache for health checks.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use sitecore_token::Quota;

use super::shared::Shared;
use crate::{
    clock::Moment,
    error::Error,
    freshness::Freshness,
    token::{Fingerprint, Token},
};

/// A snapshot of a cache for health checks. It shows no secret.
#[derive(Clone)]
pub struct CacheStatus {
    now: Moment,
    token: Option<Token>,
    freshness: Option<Freshness>,
    next_attempt_in: Option<Duration>,
    is_refreshing: bool,
    last_error: Option<Error>,
    token_requests: u64,
}

impl CacheStatus {
    /// Returns the state of the current token; `None` if there has never been one.
    #[must_use]
    pub fn freshness(&self) -> Option<Freshness> {
        self.freshness
    }

    /// Returns `true` if callers get a token without waiting.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self.freshness, Some(Freshness::Fresh | Freshness::Stale))
    }

    /// Returns the short hash of the current token.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.token.as_ref().map(Token::fingerprint)
    }

    /// Returns the age of the current token, by the clock that says it is older.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let validity = self.token.as_ref()?.0.validity.as_ref()?;
        Some(self.now.age_since(validity.issued_at))
    }

    /// Returns how much longer the current token will be used; zero if it has expired, `None` if
    /// there is none or it does not expire.
    #[must_use]
    pub fn usable_for(&self) -> Option<Duration> {
        let unusable_at = self.token.as_ref()?.unusable_at();
        (unusable_at != Moment::NEVER).then(|| self.now.until(unusable_at))
    }

    /// Returns the current token's expiry; `None` if there is no token or it
    /// does not expire.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.token.as_ref()?.expires_at()
    }

    /// Returns why the last refresh failed, or `None` if it succeeded. A rejected token is not
    /// reported here, unless the issuer returned the same token again.
    #[must_use]
    pub fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// Returns the time until the next token request, if there are callers; `None` for a key
    /// without expiry. A rejected token, or new credentials after a refusal, can lead to an earlier
    /// token request.
    #[must_use]
    pub fn next_attempt_in(&self) -> Option<Duration> {
        self.next_attempt_in
    }

    /// Returns `true` if a refresh is in flight.
    #[must_use]
    pub fn is_refreshing(&self) -> bool {
        self.is_refreshing
    }

    /// Returns the number of token requests since the cache was created, successful or not. This is
    /// the number of calls of the source: with a store, adopted tokens count too.
    #[must_use]
    pub fn token_requests(&self) -> u64 {
        self.token_requests
    }

    /// Returns what the issuer said about its quota when it granted the current token.
    #[must_use]
    pub fn quota(&self) -> Option<&Quota> {
        self.token.as_ref()?.quota()
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
            .field("is_refreshing", &self.is_refreshing)
            .field("last_error", &self.last_error)
            .field("token_requests", &self.token_requests)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn status(&self) -> CacheStatus {
        let now = self.now();
        let state = self.state.lock();
        let token = self.slot.load();
        let cooldown = state.cooldown.as_ref();
        let returned_again = || {
            let by = state.returned_again.as_ref();
            by.map(|by| state.returned_again_error(by, now))
        };
        let due = token.as_ref().map_or(now, Token::stale_at);
        let not_before = state.refresh_not_before.map_or(Duration::ZERO, |until| now.until(until));
        let cooldown_left = cooldown.map_or(Duration::ZERO, |cooldown| cooldown.remaining(now));
        let next_attempt_in = now.until(due).max(not_before).max(cooldown_left);
        let in_flight = state.in_flight.as_ref();
        CacheStatus {
            now,
            freshness: token.as_ref().map(|token| token.freshness(now)),
            next_attempt_in: (due != Moment::NEVER).then_some(next_attempt_in),
            is_refreshing: in_flight.is_some_and(|refresh| !refresh.is_lost(now)),
            last_error: cooldown.map(|cooldown| cooldown.error(now)).or_else(returned_again),
            token_requests: state.token_requests,
            token,
        }
    }
}
