//! A credential that is ready to be sent: the header is made once, when the token arrives.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use sha2::{Digest as _, Sha256};
use sitecore_token::Claims;

use crate::{
    Error, ErrorKind, Freshness, Quota, RefreshPolicy, Result,
    clock::Now,
    stamp::{Life, Stamp},
};

/// A bearer token, or an API key, as a ready-made header. Cheap to clone.
///
/// A token reads no clock: a [`TokenCache`](crate::TokenCache) stamps it when it takes it in.
#[derive(Clone)]
pub struct Token(pub(crate) Arc<Inner>);

/// Begins a cache line, as does the count of its references: see [`Token::copy`].
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Inner {
    name: HeaderName,
    value: HeaderValue,
    /// What the value is made of: overwritten when nobody holds it any more.
    text: Bytes,
    life: Life,
    age: Duration,
    /// From when the source was asked until the issuer was.
    waited: Duration,
    fingerprint: Fingerprint,
    quota: Option<Quota>,
    pub(crate) stamp: Option<Stamp>,
}

impl Token {
    /// Makes a token that is sent as `Authorization: Bearer …` ([RFC 6750 §2.1]) and lives for
    /// `lifetime` from before it was asked for. One that lives for no time at all is never handed out.
    ///
    /// # Errors
    ///
    /// [`Malformed`](ErrorKind::Malformed) if the text is no bearer token, or too long for a header.
    ///
    /// [RFC 6750 §2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
    pub fn bearer(token: impl Into<SecretString>, lifetime: Duration) -> Result<Self> {
        Self::bearer_for(&token.into(), Life::Known(lifetime))
    }

    pub(crate) fn bearer_for(token: &SecretString, life: Life) -> Result<Self> {
        let token = token.expose_secret();
        sitecore_token::check_bearer(token)?;
        Self::new(AUTHORIZATION, token, format!("Bearer {token}"), life)
    }

    /// Makes a key that is sent in the header `name` and lives until somebody revokes it.
    ///
    /// # Errors
    ///
    /// [`Malformed`](ErrorKind::Malformed) if the key is empty or cannot stand in a header.
    pub fn api_key(name: HeaderName, key: impl Into<SecretString>) -> Result<Self> {
        let key = key.into();
        let key = key.expose_secret();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::new(
                ErrorKind::Malformed,
                "the key is empty or has characters that a header cannot carry",
            ));
        }
        Self::new(name, key, key.to_owned(), Life::Endless)
    }

    fn new(name: HeaderName, secret: &str, header: String, life: Life) -> Result<Self> {
        let text = Bytes::from_owner(Zeroizing::new(header));
        Ok(Self(Arc::new(Inner {
            name,
            value: sensitive(text.clone())?,
            text,
            life,
            age: Duration::ZERO,
            waited: Duration::ZERO,
            fingerprint: Fingerprint::of(secret),
            quota: None,
            stamp: None,
        })))
    }

    /// Says that the token was `age` old when the source was asked: for sources that remember tokens.
    #[must_use]
    pub fn with_age(mut self, age: Duration) -> Self {
        Arc::make_mut(&mut self.0).age = age;
        self
    }

    /// Says that the source waited before the token was asked for, or its age was reckoned: the life counts from
    /// then. For sources that wait, say for others; waits add up.
    #[must_use]
    pub fn asked_after(mut self, waited: Duration) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.waited = inner.waited.saturating_add(waited);
        self
    }

    /// Makes the same token once more, with the same text, but with references that are counted by themselves: for a
    /// thread that shall not wait for others who count theirs.
    pub(crate) fn copy(&self) -> Self {
        let text = Bytes::from_owner(OwnLine(self.0.text.clone()));
        Self(Arc::new(Inner {
            // It was a header's value before.
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

    /// Fixes the instants that the token's life turns on.
    pub(crate) fn stamped(mut self, policy: &RefreshPolicy, asked: Now) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.life = inner.life.believed(policy);
        inner.stamp = Some(Stamp::new(
            policy,
            inner.life,
            inner.age,
            asked.after(inner.waited),
            fastrand::f64(),
        ));
        self
    }

    /// Ends this token no later than the other, by the monotonic clock.
    pub(crate) fn not_outliving(mut self, other: &Self) -> Self {
        if let (Some(stamp), Some(other)) = (&mut Arc::make_mut(&mut self.0).stamp, &other.0.stamp)
        {
            stamp.stale = stamp.stale.not_after(other.stale);
            stamp.unusable = stamp.unusable.not_after(other.unusable);
        }
        self
    }

    /// Returns the life that the token was granted, from its issue; `None` for a key without expiry, and
    /// while it is unknown.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        match self.0.life {
            Life::Known(life) => Some(life),
            Life::Unknown | Life::Endless => None,
        }
    }

    /// Returns how old the token was when the source was asked; zero for one that was granted then.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.age
    }

    /// Returns the header to send. The value is marked sensitive: `Debug` does not show it, and HTTP/2
    /// does not index it.
    #[must_use]
    pub fn header(&self) -> (&HeaderName, &HeaderValue) {
        (&self.0.name, &self.0.value)
    }

    /// Returns the wall clock time at which the issuer lets the token die; `None` before a cache has
    /// stamped it, and for a key without expiry.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        let since_epoch = self.0.stamp.as_ref()?.expires_at?;
        DateTime::from_timestamp(since_epoch.as_secs().try_into().ok()?, since_epoch.subsec_nanos())
    }

    /// Returns a short hash of the token: safe to log, the same in every process.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    pub(crate) fn freshness(&self, now: Now) -> Freshness {
        // A cache holds stamped tokens alone.
        self.0.stamp.as_ref().map_or(Freshness::Expired, |stamp| stamp.freshness(now))
    }

    /// Decodes the claims of a JWT, unverified: whose it is, and what kind of client's. `None` for any other
    /// token.
    #[must_use]
    pub fn claims(&self) -> Option<Claims> {
        let text = self.0.value.to_str().ok()?;
        Claims::decode(text.trim_start_matches("Bearer "))
    }

    /// Tells whether this token's use is over before the other's.
    pub(crate) fn ends_before(&self, other: &Self, now: Now) -> bool {
        now.until(self.unusable_from()) < now.until(other.unusable_from())
    }

    pub(crate) fn stale_from(&self) -> Now {
        self.0.stamp.as_ref().map_or(Now::NEVER, |stamp| stamp.stale)
    }

    pub(crate) fn unusable_from(&self) -> Now {
        self.0.stamp.as_ref().map_or(Now::NEVER, |stamp| stamp.unusable)
    }

    /// Tells whether the other is the same credential, whenever each was taken in.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.name == other.0.name && self.0.value == other.0.value)
    }
}

/// A text whose references are counted in a cache line of their own.
#[repr(align(64))]
struct OwnLine(Bytes);

impl AsRef<[u8]> for OwnLine {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Makes a header's value of a text, without copying it.
fn sensitive(text: Bytes) -> Result<HeaderValue> {
    // The error of this conversion does not quote the value.
    let value = HeaderValue::from_maybe_shared(text);
    let mut value = value.map_err(|error| Error::new(ErrorKind::Malformed, error))?;
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

/// A short hash that tells tokens apart in logs: 32 bits of SHA-256, in hexadecimal.
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
