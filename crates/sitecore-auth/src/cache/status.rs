//! A snapshot of a cache for health checks.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
#[cfg(feature = "serde")]
use serde::ser::SerializeStruct as _;
use sitecore_token::Quota;

use super::{
    decision::{Need, RejectedBy},
    shared::Shared,
};
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
    next_attempt_in: Option<Duration>,
    is_refreshing: bool,
    last_error: Option<Error>,
    rejected_by: Vec<RejectedBy>,
    token_requests: u64,
}

impl CacheStatus {
    /// Returns the state of the current token; `None` if there has never been one.
    #[must_use]
    pub fn freshness(&self) -> Option<Freshness> {
        self.token.as_ref().map(|token| token.freshness(self.now))
    }

    /// Returns `true` if callers get a token without waiting.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self.freshness(), Some(Freshness::Fresh | Freshness::Stale))
    }

    /// Returns `true` if there is a usable token, or if no refresh has failed since the last
    /// success. A cache that has not been used yet, or not for days, has no usable token but is
    /// ready.
    ///
    /// Use it for a readiness probe. A process that is not ready gets no traffic, and `status`
    /// starts no refresh. So spawn [`keep_fresh`](crate::TokenCache::keep_fresh), or call
    /// [`current`](crate::TokenCache::current) in the probe and ignore its result.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_usable() || self.last_error.is_none()
    }

    /// Returns the short hash of the current token.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.token.as_ref().map(Token::fingerprint)
    }

    /// Returns the age of the current token, by the clock that says it is older. For a token that
    /// the source returned again after it had expired here, the age counts from then.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.token.as_ref()?.age_at(self.now)
    }

    /// Returns how much longer the current token can be used; zero if it has expired, `None` if
    /// there is none or it does not expire.
    #[must_use]
    pub fn usable_for(&self) -> Option<Duration> {
        let unusable_at = self.token.as_ref()?.unusable_at();
        (unusable_at != Moment::NEVER).then(|| self.now.until(unusable_at))
    }

    /// Returns the current token's expiry; `None` if there is no token or it does not expire.
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

    /// Returns the APIs that reject the current token, each by the URL of its target. A rejection
    /// by the program, through [`replace`](crate::TokenCache::replace), is not listed.
    pub fn rejected_by(&self) -> impl Iterator<Item = &str> {
        self.rejected_by.iter().filter_map(|by| match by {
            RejectedBy::Api(api) => Some(&**api),
            RejectedBy::Caller => None,
        })
    }

    /// Returns the time until the next token request, if there are callers; `None` for a key
    /// without expiry. It can come earlier after a rejection, new credentials,
    /// [`retry_now`](crate::TokenCache::retry_now) or
    /// [`token_valid_for`](crate::TokenCache::token_valid_for).
    #[must_use]
    pub fn next_attempt_in(&self) -> Option<Duration> {
        self.next_attempt_in
    }

    /// Returns `true` if a refresh is in flight.
    #[must_use]
    pub fn is_refreshing(&self) -> bool {
        self.is_refreshing
    }

    /// Returns the number of token requests since the cache was created, successful or not. Tokens
    /// that the source adopted from a store do not count.
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
            .field("freshness", &self.freshness())
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

/// The members are named like the methods. Durations are in seconds, and `expires_at` is a time in
/// RFC 3339.
#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
impl serde::Serialize for CacheStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let mut fields = serializer.serialize_struct("CacheStatus", 12)?;
        fields.serialize_field("is_ready", &self.is_ready())?;
        fields.serialize_field("is_usable", &self.is_usable())?;
        fields.serialize_field("freshness", &self.freshness().map(Freshness::label))?;
        fields.serialize_field("fingerprint", &self.fingerprint().map(|hash| hash.to_string()))?;
        fields.serialize_field("age", &seconds(self.age()))?;
        fields.serialize_field("usable_for", &seconds(self.usable_for()))?;
        fields.serialize_field("expires_at", &self.expires_at().map(|time| time.to_rfc3339()))?;
        fields.serialize_field("next_attempt_in", &seconds(self.next_attempt_in))?;
        fields.serialize_field("is_refreshing", &self.is_refreshing)?;
        fields.serialize_field("last_error", &self.last_error.as_ref().map(Error::cause))?;
        fields.serialize_field("rejected_by", &self.rejected_by().collect::<Vec<_>>())?;
        fields.serialize_field("token_requests", &self.token_requests)?;
        fields.end()
    }
}

impl Shared {
    pub(super) fn status(self: &Arc<Self>) -> CacheStatus {
        // Puts a settled token to use, if it is time.
        self.join(Need::Look, None);
        let input = self.input();
        let guarded = self.lock();
        let state = &guarded.state;
        let current = state.tokens.current();
        CacheStatus {
            now: input.now,
            token: current.map(|current| current.token.clone()),
            next_attempt_in: state.next_attempt_in(input),
            is_refreshing: state.is_refreshing(input),
            last_error: state.last_error(input),
            rejected_by: current.map_or_else(Vec::new, |current| current.rejected_by.clone()),
            token_requests: state.token_requests,
        }
    }
}
