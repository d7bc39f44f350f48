//! The response to a token request: turns its bytes into a token or an error. No I/O.
//!
//! Text from the network reaches a message only through [`Redactor::sanitize`].

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime},
};

use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE},
};
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;
use url::Url;

use crate::{
    claims::Claims,
    error::{Error, ErrorKind, Refusal, Result},
    json::{
        ErrorFields, Fields, MAX_LIFETIME, ParseError, check_bearer, parse_lifetime, parse_text,
    },
    quota::{Quota, rate_limit_wait, response_date, retry_after},
    redact::Redactor,
    settings::ClientAuth,
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
    /// This is the shorter of `expires_in` and the JWT's own lifetime, never zero and at most 30
    /// days. The JWT's lifetime is `exp − iat`, or what was left of it at the response's `Date` if
    /// a cache had kept the token or there is no `iat`. Lifetimes of a second or more are rounded
    /// down to whole seconds. `None` if the response specifies neither.
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

/// The codes that RFC 6749, RFC 8628, RFC 8707 and Auth0 define. They are shown even if they
/// contain one of the request's own values.
const KNOWN_CODES: [&str; 13] = [
    "access_denied",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "server_error",
    "slow_down",
    "temporarily_unavailable",
    "too_many_requests",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
];

/// The response of a token endpoint, as received.
pub(crate) struct RawResponse<'a> {
    pub(crate) url: &'a Url,
    pub(crate) client_id: &'a str,
    pub(crate) client_auth: ClientAuth,
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    /// The whole body or, of an error response, what arrived of it.
    pub(crate) body: &'a [u8],
    pub(crate) received_at: SystemTime,
}

impl RawResponse<'_> {
    /// Returns the token in the response, or the reason why there is none.
    pub(crate) fn interpret(&self, redactor: &Redactor) -> Result<TokenResponse> {
        if self.status.is_redirection() {
            return Err(self.redirect(redactor));
        }
        let ErrorFields { code, description, access_token } = ErrorFields::read(self.body);
        if let Some(code) = code.filter(|code| is_oauth_code(code)) {
            let redactor = redactor.and(access_token.unwrap_or_default());
            return Err(self.oauth_error(
                &code,
                description.as_ref().map(|text| text.as_str()),
                &redactor,
            ));
        }
        match self.status {
            StatusCode::OK => {
                let parsed = Fields::parse(self.body);
                let fields = parsed.map_err(|error| self.unreadable(error, redactor))?;
                self.token(&fields, redactor)
            }
            status if status.is_success() => Err(Error::malformed(format!(
                "{} responded with status {}, but only 200 carries a token; check the token URL",
                self.host(),
                status.as_u16()
            ))),
            status => Err(self.http_error(status)),
        }
    }

    fn token(&self, fields: &Fields<'_>, redactor: &Redactor) -> Result<TokenResponse> {
        // Errors about a part of the response name neither the issuer nor the client.
        let unusable = |error: Error| {
            let (host, client) = (self.host(), self.client());
            error.with_context(&format!("{host} granted {client} no usable token"))
        };
        match parse_text("token_type", fields.token_type).map_err(unusable)? {
            None => warn!("token response has no token_type, assuming Bearer"),
            Some(kind) if kind.eq_ignore_ascii_case("bearer") => {}
            Some(kind) => {
                // Anything else is not quoted: a token may be in the wrong field.
                let shown = match is_type_name(&kind) {
                    true => format!("of type `{}`", redactor.sanitize(&kind)),
                    false => "of an unknown type".to_owned(),
                };
                return Err(Error::malformed(format!(
                    "{} granted a token {shown}, but only Bearer is supported; configure the issuer to grant Bearer tokens",
                    self.host()
                )));
            }
        }
        let token = parse_text("access_token", fields.access_token)
            .and_then(|token| {
                let missing = "the token response has no `access_token`; check the token URL";
                token.ok_or_else(|| Error::malformed(missing))
            })
            .map_err(unusable)?;
        check_bearer(&token).map_err(unusable)?;
        let claims = Claims::decode(&token);
        let expires_in = fields.expires_in.map(parse_lifetime).transpose().map_err(unusable)?;
        if expires_in == Some(Duration::ZERO) {
            warn!("token response has expires_in 0, treating it as missing");
        }
        let expires_in = expires_in.filter(|lifetime| !lifetime.is_zero());
        let lifetime = self.lifetime(expires_in, claims.as_ref())?;
        // Not needed, so an unreadable scope is not an error.
        let scope = parse_text("scope", fields.scope).ok().flatten().map(Cow::into_owned);
        Ok(TokenResponse {
            access_token: SecretString::from(&*token),
            expires_in: lifetime.map(|lifetime| lifetime.min(MAX_LIFETIME)),
            scope: scope.or_else(|| Some(claims?.scopes().collect::<Vec<_>>().join(" "))),
            quota: Quota::from_headers(self.headers),
        })
    }

    /// Returns the shorter of the lifetimes that the response and the token specify.
    fn lifetime(
        &self,
        expires_in: Option<Duration>,
        claims: Option<&Claims>,
    ) -> Result<Option<Duration>> {
        let date = response_date(self.headers);
        let full = claims.and_then(Claims::lifetime);
        let claimed = match claims.and_then(|claims| claims.remaining_lifetime(date)) {
            // The issuer contradicts itself, so the token's times are not reliable.
            Some(Duration::ZERO)
                if full.is_some() && expires_in.is_some() && expires_in != full =>
            {
                full
            }
            Some(Duration::ZERO) => {
                let host = self.host();
                let message = format!(
                    "{host} returned an expired token; make sure that no proxy caches token responses"
                );
                return Err(Error::malformed(message).transient());
            }
            claimed => claimed,
        };
        Ok([expires_in, claimed].into_iter().flatten().min())
    }

    /// Classifies an OAuth error by what can be done about it. Only what is shown is redacted.
    fn oauth_error(&self, code: &str, description: Option<&str>, redactor: &Redactor) -> Error {
        let status = self.status.as_u16();
        let (kind, advice) = match (status, code) {
            (429, _) | (_, "too_many_requests" | "slow_down") => (
                ErrorKind::RateLimited,
                "cache tokens and share them between processes, or wait until the quota resets",
            ),
            (_, "server_error" | "temporarily_unavailable") => {
                (ErrorKind::Unavailable, "try again later")
            }
            (404 | 405, _) => (ErrorKind::Unavailable, "check the path of the token URL"),
            (400 | 401, "invalid_client") if self.offers_basic() => (
                ErrorKind::Refused,
                "check the client id and the client secret; if they are right, the issuer requires HTTP Basic, so use ClientAuth::Basic",
            ),
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
            _ => (ErrorKind::Unavailable, "try again later"),
        };
        let known = KNOWN_CODES.contains(&code);
        let refusal = Refusal {
            status,
            code: if known { code.to_owned() } else { redactor.sanitize(code) },
            description: description.map(|text| redactor.sanitize(text)),
        };
        let outcome = match kind {
            ErrorKind::Refused => "refused",
            ErrorKind::RateLimited => "limited the rate of token requests from",
            _ => "could not grant a token to",
        };
        let quoted = refusal.description().map(|text| format!(": \"{text}\"")).unwrap_or_default();
        let (host, client) = (self.host(), self.client());
        Error::new(kind, format!("{host} {outcome} {client} ({refusal}{quoted}); {advice}"))
            .with_retry_after(self.wait(kind))
            .with_issuer_responded(true)
            .with_refusal(refusal)
    }

    /// An error status without an OAuth code. It may not come from the issuer.
    fn http_error(&self, status: StatusCode) -> Error {
        let (kind, advice) = match status.as_u16() {
            404 | 405 => (ErrorKind::Unavailable, "check the token URL"),
            407 => (ErrorKind::Unavailable, "add a user name and a password to the proxy's URL"),
            429 => (
                ErrorKind::RateLimited,
                "cache tokens and share them between processes, or wait until the quota resets",
            ),
            400..500 => (
                ErrorKind::Unavailable,
                "check the proxy and the firewall, one of which probably responded instead of the issuer",
            ),
            511 => (ErrorKind::Unavailable, "sign in to the network"),
            _ => (ErrorKind::Unavailable, "try again later"),
        };
        // A network that requires a sign-in responds with 511.
        let by_issuer = matches!(status.as_u16(), 429 | 500..=510 | 512..=599);
        let (host, client, status) = (self.host(), self.client(), status.as_u16());
        let message = format!(
            "{host} responded to {client} with status {status} and no readable OAuth error; {advice}"
        );
        Error::new(kind, message).with_retry_after(self.wait(kind)).with_issuer_responded(by_issuer)
    }

    /// Returns how long to wait. Quota headers count only for a rate limit, because every response
    /// can have them.
    fn wait(&self, kind: ErrorKind) -> Option<Duration> {
        match kind {
            ErrorKind::RateLimited => rate_limit_wait(self.headers, self.received_at),
            ErrorKind::Unavailable | ErrorKind::Refused => {
                retry_after(self.headers, self.received_at)
            }
            ErrorKind::Config | ErrorKind::Malformed => None,
        }
    }

    /// A redirect is never followed, because 307 and 308 would send the secret to its target.
    fn redirect(&self, redactor: &Redactor) -> Error {
        let location = self.headers.get(LOCATION);
        let target = location.and_then(|value| self.url.join(value.to_str().ok()?).ok());
        let target = target.as_ref().and_then(Url::host_str).unwrap_or("an unknown host");
        let (host, status) = (self.host(), self.status.as_u16());
        let target = redactor.sanitize(target);
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "{host} redirected the token request to {target} ({status}), but redirects are not followed; check the token URL, or sign in to the network"
            ),
        )
    }

    /// Returns `true` if an OAuth code can be read, even if the body is incomplete.
    pub(crate) fn has_oauth_code(&self) -> bool {
        ErrorFields::read(self.body).code.is_some_and(|code| is_oauth_code(&code))
    }

    /// Returns the error for a success whose body is incomplete.
    pub(crate) fn truncated(&self, redactor: &Redactor) -> Error {
        self.unreadable(
            ParseError { what: "is truncated or cannot be decoded", transient: true },
            redactor,
        )
    }

    fn unreadable(&self, error: ParseError, redactor: &Redactor) -> Error {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type =
            content_type.map_or_else(|| "none".to_owned(), |text| redactor.sanitize(text));
        let (host, what, bytes) = (self.host(), error.what, self.body.len());
        let message = format!(
            "the token response from {host} {what} (content type {content_type}, {bytes} bytes); a proxy or a sign-in page may have responded instead of the issuer"
        );
        match error.transient {
            true => Error::malformed(message).transient(),
            false => Error::malformed(message),
        }
    }

    /// Returns `true` if the issuer accepts HTTP Basic ([RFC 6749 §5.2]) and the request did not
    /// use it.
    ///
    /// [RFC 6749 §5.2]: https://www.rfc-editor.org/rfc/rfc6749#section-5.2
    fn offers_basic(&self) -> bool {
        let has_basic = |line: &HeaderValue| {
            // Quoted text can contain commas and the word.
            let unquoted = line.as_bytes().split(|byte| *byte == b'"').step_by(2);
            let text = unquoted.collect::<Vec<_>>().concat();
            text.split(|byte| *byte == b',').any(|challenge| {
                let scheme = challenge.trim_ascii().split(|byte| *byte == b' ').next();
                scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
            })
        };
        let mut lines = self.headers.get_all(WWW_AUTHENTICATE).into_iter();
        self.client_auth == ClientAuth::Body && lines.any(has_basic)
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    fn client(&self) -> String {
        let id: String = self.client_id.chars().filter(|c| !c.is_control()).collect();
        format!("client `{id}`")
    }
}

/// Returns `true` if this has the form of a token type: words that may end in digits, such as those
/// of a URI.
fn is_type_name(kind: &str) -> bool {
    let is_word = |word: &str| {
        let letters = word.trim_end_matches(|char: char| char.is_ascii_digit());
        word.len() <= 16 && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
    };
    kind.len() <= 80 && kind.split([':', '/', '.', '_', '-']).all(is_word)
}

/// Returns `true` if this has the form of an OAuth code. A gateway that writes `"error":
/// "Forbidden"` does not speak for the issuer.
fn is_oauth_code(code: &str) -> bool {
    let is_code_char =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    code.starts_with(|first: char| first.is_ascii_lowercase()) && code.bytes().all(is_code_char)
}
