//! The response to a token request: turns its bytes into a token or an error. No I/O.
//!
//! Text from the network reaches a message only through [`Redactor::sanitize`].

use std::{borrow::Cow, fmt, time::Duration};

use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, LOCATION},
};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;
use url::Url;

use crate::{
    claims::Claims,
    error::{Error, ErrorKind, Refusal, Result},
    json::{Fields, MAX_LIFETIME, ParseError, check_bearer, parse_lifetime, parse_text},
    quota::{Quota, rate_limit_wait, retry_after},
    redact::Redactor,
};

/// A granted access token ([RFC 6749 §5.1]).
///
/// [RFC 6749 §5.1]: https://www.rfc-editor.org/rfc/rfc6749#section-5.1
#[derive(Clone)]
pub struct TokenResponse {
    access_token: SecretString,
    expires_in: Option<Duration>,
    scope: Option<String>,
    quota: Option<Quota>,
}

impl TokenResponse {
    /// Returns the token. It is never empty, and it is a valid value for `Authorization: Bearer …`.
    #[must_use]
    pub fn access_token(&self) -> &SecretString {
        &self.access_token
    }

    /// Returns the token's lifetime. Count it from before the request was sent, because the issuer
    /// counts it from some time before the response arrived.
    ///
    /// This is the shorter of `expires_in` and the JWT's own `exp − iat`, in whole seconds, never
    /// zero and at most 30 days. `None` if the response specifies neither.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        self.expires_in
    }

    /// Returns the granted scopes: those in the response or, if there are none, those in the token.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope.as_deref().unwrap_or_default().split_ascii_whitespace()
    }

    /// Decodes the claims of a JWT. They are not verified. `None` for an opaque token.
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

/// The response of a token endpoint, as received.
pub(crate) struct RawResponse<'a> {
    pub(crate) url: &'a Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

impl RawResponse<'_> {
    /// Returns the token in the response, or the reason why there is none.
    pub(crate) fn interpret(&self, redactor: &Redactor<'_>) -> Result<TokenResponse> {
        if self.status.is_redirection() {
            return Err(self.redirect(redactor));
        }
        let parsed = Fields::parse(self.body);
        let refusal = parsed.as_ref().ok().and_then(|fields| self.refusal(fields, redactor));
        if let Some(refusal) = refusal {
            return Err(self.oauth_error(refusal));
        }
        match self.status {
            StatusCode::OK => {
                let fields = parsed.map_err(|error| self.unreadable(error, redactor))?;
                self.token(&fields, redactor)
            }
            status if status.is_success() => Err(Error::malformed(format!(
                "the issuer responded with status {}, but only 200 carries a token",
                status.as_u16()
            ))),
            status => Err(self.http_error(status)),
        }
    }

    fn token(&self, fields: &Fields<'_>, redactor: &Redactor<'_>) -> Result<TokenResponse> {
        match parse_text("token_type", fields.token_type)? {
            None => warn!("token response has no token_type, assuming Bearer"),
            Some(kind) if kind.eq_ignore_ascii_case("bearer") => {}
            Some(kind) => {
                // Only a short name is quoted: a token may be in the wrong field.
                let is_name_char = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                let is_name = kind.len() <= 20 && kind.bytes().all(is_name_char);
                let shown = if is_name {
                    format!("of type `{}`", redactor.sanitize(&kind))
                } else {
                    "of an unsupported type".to_owned()
                };
                return Err(Error::malformed(format!(
                    "the issuer granted a token {shown}, but only Bearer is supported"
                )));
            }
        }
        let token = parse_text("access_token", fields.access_token)?
            .ok_or_else(|| Error::malformed("the token response has no `access_token`"))?;
        check_bearer(&token)?;
        let claims = Claims::decode(&token);
        let expires_in = fields.expires_in.map(parse_lifetime).transpose()?;
        if expires_in == Some(Duration::ZERO) {
            warn!("token response has expires_in 0, treating it as missing");
        }
        let expires_in = expires_in.filter(|lifetime| !lifetime.is_zero());
        let claimed = claims.as_ref().and_then(Claims::lifetime);
        let lifetime = [expires_in, claimed].into_iter().flatten().min();
        // Not needed, so an unreadable scope is not an error.
        let scope = parse_text("scope", fields.scope).ok().flatten().map(Cow::into_owned);
        Ok(TokenResponse {
            access_token: SecretString::from(&*token),
            expires_in: lifetime.map(|lifetime| lifetime.min(MAX_LIFETIME)),
            scope: scope.or_else(|| Some(claims?.scopes().collect::<Vec<_>>().join(" "))),
            quota: Quota::from_headers(self.headers),
        })
    }

    /// Finds an OAuth error: a JSON object whose `error` looks like a registered code. A gateway
    /// that writes `"error": "Forbidden"` does not speak for the issuer.
    fn refusal(&self, fields: &Fields<'_>, redactor: &Redactor<'_>) -> Option<Refusal> {
        let code = parse_text("error", fields.error).ok()??;
        let is_code_char =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_code = code.starts_with(|first: char| first.is_ascii_lowercase())
            && code.bytes().all(is_code_char);
        let description = parse_text("error_description", fields.error_description).ok().flatten();
        is_code.then(|| Refusal {
            status: self.status.as_u16(),
            code: redactor.sanitize(&code),
            description: description.map(|text| redactor.sanitize(&text)),
        })
    }

    /// Classifies an OAuth error by what can be done about it.
    fn oauth_error(&self, refusal: Refusal) -> Error {
        let (kind, advice) = match (self.status.as_u16(), refusal.code.as_str()) {
            (429, _) | (_, "too_many_requests" | "slow_down") => (
                ErrorKind::RateLimited,
                "too many token requests; cache tokens and share them between processes",
            ),
            (_, "server_error" | "temporarily_unavailable") => {
                (ErrorKind::Unavailable, "it is temporarily unable to grant tokens")
            }
            (404 | 405, _) => (ErrorKind::Unavailable, "check the path of the token URL"),
            (200 | 400 | 401 | 403, "unauthorized_client" | "unsupported_grant_type") => (
                ErrorKind::Refused,
                "check the kind of client, which must be allowed to use client credentials",
            ),
            (200 | 400 | 401 | 403, "invalid_scope") => {
                (ErrorKind::Refused, "request only scopes that the client has been granted")
            }
            (200 | 400 | 403, "access_denied" | "invalid_target") => (
                ErrorKind::Refused,
                "check the audience, the requested scopes, and whether this kind of client is authorized for them",
            ),
            (200 | 400 | 401 | 403, _) => (
                ErrorKind::Refused,
                "check the client id and the client secret, then the audience and the kind of client",
            ),
            _ => (ErrorKind::Unavailable, "it could not process the request"),
        };
        Error::new(kind, format!("the issuer returned the error {refusal}; {advice}"))
            .with_retry_after(self.wait(kind))
            .with_refusal(refusal)
    }

    /// An error status without an OAuth code. It may not come from the issuer.
    fn http_error(&self, status: StatusCode) -> Error {
        let (kind, advice) = match status.as_u16() {
            404 | 405 => (ErrorKind::Unavailable, "; check the token URL"),
            407 => (ErrorKind::Unavailable, "; the proxy requires credentials"),
            429 => (ErrorKind::RateLimited, "; too many token requests"),
            400..500 => (
                ErrorKind::Unavailable,
                " without an OAuth error; it probably comes from a proxy or a firewall",
            ),
            _ => (ErrorKind::Unavailable, ""),
        };
        let host = self.url.host_str().unwrap_or_default();
        Error::new(kind, format!("{host} responded with status {}{advice}", status.as_u16()))
            .with_retry_after(self.wait(kind))
    }

    /// Every response can describe the quota. It is a reason to wait only if the quota is
    /// exhausted.
    fn wait(&self, kind: ErrorKind) -> Option<Duration> {
        match kind {
            ErrorKind::RateLimited => rate_limit_wait(self.headers),
            ErrorKind::Unavailable => retry_after(self.headers),
            ErrorKind::Config | ErrorKind::Refused | ErrorKind::Malformed => None,
        }
    }

    /// A redirect is never followed, because 307 and 308 would send the secret to its target.
    fn redirect(&self, redactor: &Redactor<'_>) -> Error {
        let location = self.headers.get(LOCATION);
        let target = location.and_then(|value| self.url.join(value.to_str().ok()?).ok());
        let target = target.as_ref().and_then(Url::host_str).unwrap_or("an unknown host");
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "the token endpoint redirects ({}) to {}, which is not followed; check the token URL",
                self.status.as_u16(),
                redactor.sanitize(target)
            ),
        )
    }

    /// The body of a success ended early.
    pub(crate) fn truncated(&self, redactor: &Redactor<'_>) -> Error {
        self.unreadable(ParseError { what: "is truncated", transient: true }, redactor)
    }

    fn unreadable(&self, error: ParseError, redactor: &Redactor<'_>) -> Error {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type =
            content_type.map_or_else(|| "none".to_owned(), |text| redactor.sanitize(text));
        let (what, bytes) = (error.what, self.body.len());
        let message =
            format!("the token response {what} (content type {content_type}, {bytes} bytes)");
        match error.transient {
            true => Error::malformed(message).transient(),
            false => Error::malformed(message),
        }
    }
}
