//! A credential as a ready-made header, built once when the token arrives.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use sha2::{Digest as _, Sha256};
use sitecore_token::{Claims, Quota};

use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
    freshness::{Freshness, Lifetime, Validity},
    policy::RefreshPolicy,
};

/// A bearer token or an API key, as a ready-made header. Cheap to clone.
///
/// A token reads no clock. A [`TokenCache`](crate::TokenCache) computes its expiry when it accepts
/// it.
#[derive(Clone)]
pub struct Token(pub(crate) Arc<TokenInner>);

/// Aligned to a cache line of its own, as is its reference count: see [`Token::unshared`].
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct TokenInner {
    name: HeaderName,
    value: HeaderValue,
    /// Backs the header value, and is overwritten when the last reference to it is dropped.
    text: Bytes,
    lifetime: Lifetime,
    age: Duration,
    /// How long the source waited before it sent the token request.
    waited: Duration,
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
        Ok(Self(Arc::new(TokenInner {
            name,
            value: sensitive(text.clone())?,
            text,
            lifetime,
            age: Duration::ZERO,
            waited: Duration::ZERO,
            fingerprint: Fingerprint::of(secret),
            quota: None,
            validity: None,
        })))
    }

    /// Sets how old the token already was when the source was called. For sources that remember
    /// tokens.
    #[must_use]
    pub fn with_age(mut self, age: Duration) -> Self {
        Arc::make_mut(&mut self.0).age = age;
        self
    }

    /// Adds to the time that the source waited before it sent the token request or determined the
    /// age. The lifetime is counted from the end of that wait.
    #[must_use]
    pub fn asked_after(mut self, waited: Duration) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.waited = inner.waited.saturating_add(waited);
        self
    }

    /// Returns a copy that shares the text but counts its references separately, so that threads
    /// which use different copies do not contend for one counter.
    pub(crate) fn unshared(&self) -> Self {
        let text = Bytes::from_owner(OwnLine(self.0.text.clone()));
        Self(Arc::new(TokenInner {
            // Cannot fail, because the same text already is a header value.
            value: sensitive(text).unwrap_or_else(|_| self.0.value.clone()),
            ..(*self.0).clone()
        }))
    }

    pub(crate) fn with_quota(mut self, quota: Option<Quota>) -> Self {
        Arc::make_mut(&mut self.0).quota = quota;
        self
    }

    pub(crate) fn quota(&self) -> Option<&Quota> {
        self.0.quota.as_ref()
    }

    /// Computes when the token becomes stale and expires.
    pub(crate) fn with_validity(mut self, policy: &RefreshPolicy, requested_at: Moment) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.lifetime = inner.lifetime.clamped(policy);
        inner.validity = Some(Validity::new(
            policy,
            inner.lifetime,
            inner.age,
            requested_at.after(inner.waited),
            fastrand::f64(),
        ));
        self
    }

    /// Limits the validity of this token to that of the other one, by the monotonic clock.
    pub(crate) fn not_outliving(mut self, other: &Self) -> Self {
        let validity = &mut Arc::make_mut(&mut self.0).validity;
        if let (Some(validity), Some(other)) = (validity, &other.0.validity) {
            validity.stale_at = validity.stale_at.not_after(other.stale_at);
            validity.unusable_at = validity.unusable_at.not_after(other.unusable_at);
        }
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
        Claims::decode(text.trim_start_matches("Bearer "))
    }

    /// Returns `true` if this token expires before the other one.
    pub(crate) fn expires_before(&self, other: &Self, now: Moment) -> bool {
        now.until(self.unusable_at()) < now.until(other.unusable_at())
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

/// A text whose reference count has a cache line of its own.
#[repr(align(64))]
struct OwnLine(Bytes);

impl AsRef<[u8]> for OwnLine {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Turns a text into a header value without copying it.
fn sensitive(text: Bytes) -> Result<HeaderValue> {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u32);

impl Fingerprint {
    fn of(secret: &str) -> Self {
        let hash = Sha256::digest(secret.as_bytes());
        Self(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
