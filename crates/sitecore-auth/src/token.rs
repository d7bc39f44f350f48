//! A credential as a ready-made header, built once when the token arrives.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use crossbeam_utils::CachePadded;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use sha2::{Digest as _, Sha256};
use sitecore_token::{Claims, Quota};

use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
    freshness::{Freshness, Lifetime, Validity},
    policy::{MAX_REUSE, RefreshPolicy},
};

/// A bearer token or an API key, as a ready-made header. Cheap to clone.
///
/// A token reads no clock. A [`TokenCache`](crate::TokenCache) computes its expiry when it accepts
/// it.
#[derive(Clone)]
pub struct Token(pub(crate) Arc<CachePadded<TokenInner>>);

/// Padded, so that threads that use different copies of a token do not contend for a cache line.
#[derive(Clone)]
pub(crate) struct TokenInner {
    name: HeaderName,
    pub(crate) value: HeaderValue,
    /// Backs the header value, and is overwritten when the last reference to it is dropped.
    pub(crate) text: Bytes,
    lifetime: Lifetime,
    age: Duration,
    adopted: bool,
    /// Whether an API has rejected it, as far as the cache knew when it published this copy.
    pub(crate) rejected: bool,
    fingerprint: Fingerprint,
    quota: Option<Quota>,
    pub(crate) validity: Option<Validity>,
}

impl Token {
    /// Creates a token that is sent as `Authorization: Bearer …` ([RFC 6750 §2.1]). Its `lifetime`
    /// is counted from before it was requested. A token with a lifetime of zero is never used. If
    /// you do not know the lifetime, use a short one, such as 5 min.
    ///
    /// # Errors
    ///
    /// [`Malformed`](ErrorKind::Malformed) if the text is not a bearer token, or too long for a
    /// header.
    ///
    /// [RFC 6750 §2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
    pub fn bearer(token: impl Into<SecretString>, lifetime: Duration) -> Result<Self> {
        Self::bearer_with(&token.into(), Lifetime::Known(lifetime))
    }

    pub(crate) fn bearer_with(token: &SecretString, lifetime: Lifetime) -> Result<Self> {
        let token = token.expose_secret();
        sitecore_token::check_bearer(token)?;
        Self::new(AUTHORIZATION, token, format!("Bearer {token}"), lifetime)
    }

    /// Creates a key that is sent in the header `name`. It does not expire.
    ///
    /// # Errors
    ///
    /// [`Malformed`](ErrorKind::Malformed) if the key is empty or has characters that a header
    /// cannot carry.
    pub fn api_key(name: HeaderName, key: impl Into<SecretString>) -> Result<Self> {
        let key = key.into();
        let key = key.expose_secret();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::new(
                ErrorKind::Malformed,
                "the key is empty or has characters that a header cannot carry",
            ));
        }
        Self::new(name, key, key.to_owned(), Lifetime::Unlimited)
    }

    fn new(name: HeaderName, secret: &str, header: String, lifetime: Lifetime) -> Result<Self> {
        let text = Bytes::from_owner(Zeroizing::new(header));
        Ok(Self(Arc::new(CachePadded::new(TokenInner {
            name,
            value: sensitive(text.clone())?,
            text,
            lifetime,
            age: Duration::ZERO,
            adopted: false,
            rejected: false,
            fingerprint: Fingerprint::of(secret),
            quota: None,
            validity: None,
        }))))
    }

    /// Sets how old the token already was when the source was called. For sources that remember
    /// tokens.
    #[must_use]
    pub fn with_age(mut self, age: Duration) -> Self {
        Arc::make_mut(&mut self.0).age = age;
        self
    }

    /// Marks the token as adopted: the source took it from a store, where another process had saved
    /// it. It does not count as a token request.
    #[must_use]
    pub fn adopted(mut self) -> Self {
        Arc::make_mut(&mut self.0).adopted = true;
        self
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.0.rejected
    }

    pub(crate) fn is_adopted(&self) -> bool {
        self.0.adopted
    }

    pub(crate) fn with_quota(mut self, quota: Option<Quota>) -> Self {
        Arc::make_mut(&mut self.0).quota = quota;
        self
    }

    pub(crate) fn quota(&self) -> Option<&Quota> {
        self.0.quota.as_ref()
    }

    /// Computes when the token becomes stale and expires, unless another cache already has.
    pub(crate) fn with_validity(mut self, policy: &RefreshPolicy, requested_at: Moment) -> Self {
        if self.0.validity.is_none() {
            let inner = Arc::make_mut(&mut self.0);
            inner.lifetime = inner.lifetime.clamped(policy);
            let (lifetime, age) = (inner.lifetime, inner.age);
            let jitter = fastrand::f64();
            inner.validity = Some(Validity::new(policy, lifetime, age, requested_at, jitter));
        }
        self
    }

    /// Returns this token with a new validity, because the source returned it again after it
    /// expired here. It is used for as long as the response says, but for 5 min at most, and not
    /// beyond the `exp` of a JWT.
    pub(crate) fn reused(mut self, policy: &RefreshPolicy, now: Moment, jitter: f64) -> Self {
        let (Some(lifetime), Some(validity)) = (self.lifetime(), self.0.validity) else {
            return self;
        };
        let exp = self.claims().and_then(|claims| claims.expires_at());
        let left = lifetime
            .saturating_sub(now.age_since(validity.issued_at))
            .min(exp.map_or(MAX_REUSE, |exp| exp.saturating_sub(now.wall())))
            .min(MAX_REUSE);
        let left = Lifetime::Known(left);
        Arc::make_mut(&mut self.0).validity =
            Some(Validity::new(policy, left, Duration::ZERO, now, jitter));
        self
    }

    /// Returns the token's lifetime; `None` for a key without expiry, and while the lifetime is
    /// unknown. Once a cache has accepted the token, this is the lifetime that the cache works
    /// with.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        match self.0.lifetime {
            Lifetime::Known(lifetime) => Some(lifetime),
            Lifetime::Unknown | Lifetime::Unlimited => None,
        }
    }

    /// Returns how old the token was when the source was called; zero for one that was granted
    /// then.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.age
    }

    /// Returns the header to send. The value is marked as sensitive: `Debug` does not show it, and
    /// HTTP/2 does not index it.
    #[must_use]
    pub fn header(&self) -> (&HeaderName, &HeaderValue) {
        (&self.0.name, &self.0.value)
    }

    /// Returns the wall clock time at which the token expires; `None` for a key without expiry, and
    /// for a token that no cache has accepted yet.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        let since_epoch = self.0.validity.as_ref()?.expires_at?;
        DateTime::from_timestamp(since_epoch.as_secs().try_into().ok()?, since_epoch.subsec_nanos())
    }

    /// Returns a short hash of the token. It is safe to log and the same in every process.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    pub(crate) fn freshness(&self, now: Moment) -> Freshness {
        // Every token in a cache has a validity.
        self.0.validity.as_ref().map_or(Freshness::Expired, |validity| validity.freshness(now))
    }

    /// Decodes the claims of a JWT, which say whose token it is. They are not verified. `None` for
    /// any other kind of token.
    #[must_use]
    pub fn claims(&self) -> Option<Claims> {
        let text = self.0.value.to_str().ok()?;
        Claims::decode(text.strip_prefix("Bearer ").unwrap_or(text))
    }

    /// Returns `true` if this token expires before the other one.
    pub(crate) fn expires_before(&self, other: &Self, now: Moment) -> bool {
        now.until(self.unusable_at()) < now.until(other.unusable_at())
    }

    /// Returns when the token has settled.
    pub(crate) fn settled_at(&self, policy: &RefreshPolicy) -> Moment {
        let issued_at = self.0.validity.map_or(Moment::NEVER, |validity| validity.issued_at);
        issued_at.after(policy.settling_time(self.lifetime()))
    }

    /// Returns the token's age; `None` for a token that no cache has accepted yet.
    pub(crate) fn age_at(&self, now: Moment) -> Option<Duration> {
        Some(now.age_since(self.0.validity?.issued_at))
    }

    pub(crate) fn stale_at(&self) -> Moment {
        self.0.validity.as_ref().map_or(Moment::NEVER, |validity| validity.stale_at)
    }

    pub(crate) fn unusable_at(&self) -> Moment {
        self.0.validity.as_ref().map_or(Moment::NEVER, |validity| validity.unusable_at)
    }

    /// Returns `true` if both are the same credential, no matter when each was accepted.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.name == other.0.name && self.0.value == other.0.value)
    }
}

/// Turns a text into a header value without copying it.
pub(crate) fn sensitive(text: Bytes) -> Result<HeaderValue> {
    // The error of this conversion does not quote the value.
    let mut value = HeaderValue::from_maybe_shared(text)
        .map_err(|error| Error::new(ErrorKind::Malformed, error))?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("header", &self.0.name)
            .field("fingerprint", &format_args!("{}", self.0.fingerprint))
            .field("lifetime", &self.lifetime())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

/// A short hash that distinguishes tokens in logs: 32 bits of SHA-256, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u32);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl Fingerprint {
    fn of(secret: &str) -> Self {
        let hash = Sha256::digest(secret.as_bytes());
        Self(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]))
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
