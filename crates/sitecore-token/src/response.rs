//! One granted token, as the issuer described it.

use std::{fmt, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use crate::{Claims, Quota};

/// A granted access token ([RFC 6749 §5.1]).
///
/// [RFC 6749 §5.1]: https://www.rfc-editor.org/rfc/rfc6749#section-5.1
#[derive(Clone)]
pub struct TokenResponse {
    pub(crate) access_token: SecretString,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) scope: Option<String>,
    pub(crate) quota: Option<Quota>,
}

impl TokenResponse {
    /// Returns the token: never empty, and safe to put behind `Authorization: Bearer `.
    #[must_use]
    pub fn access_token(&self) -> &SecretString {
        &self.access_token
    }

    /// Returns how long the token lives, counted from some moment before the answer arrived: count from
    /// before the request was sent.
    ///
    /// The shorter of `expires_in` and the JWT's own `exp − iat`, in whole seconds, never zero, at most
    /// [`MAX_LIFETIME`](crate::MAX_LIFETIME). `None` if the answer says neither.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        self.expires_in
    }

    /// Returns the scopes granted: those of the answer or, if it names none, those in the token.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope.as_deref().unwrap_or_default().split_ascii_whitespace()
    }

    /// Decodes the claims of a JWT, unverified; `None` for an opaque token.
    #[must_use]
    pub fn claims(&self) -> Option<Claims> {
        Claims::decode(self.access_token.expose_secret())
    }

    /// Returns how many more tokens the issuer will grant, if it said so.
    #[must_use]
    pub fn quota(&self) -> Option<&Quota> {
        self.quota.as_ref()
    }
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("expires_in", &self.expires_in)
            .field("scope", &self.scope)
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}
