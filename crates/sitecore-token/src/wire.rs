//! Reads what the token endpoint answered: bytes in, a token or an error out, no I/O.
//!
//! Nothing from the network gets into a message but what passed [`Redactor::say`].

use std::{borrow::Cow, time::Duration};

use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap, LOCATION},
};
use secrecy::SecretString;
use tracing::warn;
use url::{Url, form_urlencoded};

use crate::{
    Claims, Error, ErrorKind, Quota, Refusal, Result, TokenResponse,
    body::{MAX_LIFETIME, Members, Unreadable, check_bearer, lifetime, text},
    quota::{limit_wait, retry_after},
};

/// The answer of a token endpoint, as it came.
pub(crate) struct Answer<'a> {
    pub(crate) url: &'a Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// Turns the answer into the token that it holds, or into the reason why there is none.
    pub(crate) fn read(&self, redactor: &Redactor<'_>) -> Result<TokenResponse> {
        if self.status.is_redirection() {
            return Err(self.redirected(redactor));
        }
        let parsed = Members::parse(self.body);
        if let Some(refusal) =
            parsed.as_ref().ok().and_then(|members| self.refusal(members, redactor))
        {
            return Err(self.refused(refusal));
        }
        match self.status {
            StatusCode::OK => {
                self.token(&parsed.map_err(|error| self.unreadable(error, redactor))?, redactor)
            }
            status if status.is_success() => Err(Error::malformed(format!(
                "the issuer answered with status {}, and only 200 carries a token",
                status.as_u16()
            ))),
            status => Err(self.failed(status)),
        }
    }

    fn token(&self, members: &Members<'_>, redactor: &Redactor<'_>) -> Result<TokenResponse> {
        match text("token_type", members.token_type)? {
            None => warn!("the token answer names no token_type; taken as Bearer"),
            Some(kind) if kind.eq_ignore_ascii_case("bearer") => {}
            Some(kind) => {
                // A name, and not a token in the wrong place.
                let is_name = kind.len() <= 20
                    && kind
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
                let named = if is_name { redactor.say(&kind) } else { "another".to_owned() };
                return Err(Error::malformed(format!(
                    "the issuer granted a token of type `{named}`, and only Bearer is supported"
                )));
            }
        }
        let token = text("access_token", members.access_token)?
            .ok_or_else(|| Error::malformed("the token answer has no `access_token`"))?;
        check_bearer(&token)?;
        let claims = Claims::decode(&token);
        let promised = members.expires_in.map(lifetime).transpose()?;
        if promised == Some(Duration::ZERO) {
            warn!("the token answer says expires_in 0; taken as not said");
        }
        let promised = promised.filter(|life| !life.is_zero());
        let claimed = claims.as_ref().and_then(Claims::lifetime);
        // Not needed, and so never a reason to refuse a token.
        let scope = text("scope", members.scope).ok().flatten().map(Cow::into_owned);
        Ok(TokenResponse {
            access_token: SecretString::from(&*token),
            expires_in: [promised, claimed]
                .into_iter()
                .flatten()
                .min()
                .map(|life| life.min(MAX_LIFETIME)),
            scope: scope.or_else(|| Some(claims?.scopes().collect::<Vec<_>>().join(" "))),
            quota: Quota::from_headers(self.headers),
        })
    }

    /// Finds an OAuth error: a JSON object whose `error` looks like a registered code. Gateways that
    /// write `"error": "Forbidden"` did not speak for the issuer.
    fn refusal(&self, members: &Members<'_>, redactor: &Redactor<'_>) -> Option<Refusal> {
        let code = text("error", members.error).ok()??;
        let oauth = code.starts_with(|first: char| first.is_ascii_lowercase())
            && code
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let description = text("error_description", members.error_description).ok().flatten();
        oauth.then(|| Refusal {
            status: self.status.as_u16(),
            code: redactor.say(&code),
            description: description.map(|words| redactor.say(&words)),
        })
    }

    /// Sorts an OAuth error by what can be done about it.
    fn refused(&self, refusal: Refusal) -> Error {
        let (kind, advice) = match (self.status.as_u16(), refusal.code.as_str()) {
            (429, _) | (_, "too_many_requests" | "slow_down") => (
                ErrorKind::RateLimited,
                "too many tokens were asked for: keep tokens and share them",
            ),
            (_, "server_error" | "temporarily_unavailable") => {
                (ErrorKind::Unavailable, "the issuer is in trouble")
            }
            (404 | 405, _) => (ErrorKind::Unavailable, "check the path of the token URL"),
            (200 | 400 | 401 | 403, "unauthorized_client" | "unsupported_grant_type") => (
                ErrorKind::Refused,
                "check the kind of client: it must be allowed client_credentials",
            ),
            (200 | 400 | 401 | 403, "invalid_scope") => {
                (ErrorKind::Refused, "ask for no scope that was not granted")
            }
            (200 | 400 | 403, "access_denied" | "invalid_target") => (
                ErrorKind::Refused,
                "check the audience, the scopes asked for, and that this kind of client is authorized for it",
            ),
            (200 | 400 | 401 | 403, _) => (
                ErrorKind::Refused,
                "check the client id and the client secret, then the audience and the kind of client",
            ),
            _ => (ErrorKind::Unavailable, "the issuer could not answer"),
        };
        Error::new(kind, format!("the issuer refused to grant a token ({refusal}): {advice}"))
            .with_retry_after(self.wait(kind))
            .with_refusal(refusal)
    }

    /// An error status without an OAuth code: some machine spoke, perhaps not the issuer.
    fn failed(&self, status: StatusCode) -> Error {
        let (kind, advice) = match status.as_u16() {
            404 | 405 => (ErrorKind::Unavailable, ": check the token URL"),
            407 => (ErrorKind::Unavailable, ": the proxy wants credentials"),
            429 => (ErrorKind::RateLimited, ": too many tokens were asked for"),
            400..500 => {
                (ErrorKind::Unavailable, " without an OAuth error: probably a proxy or a firewall")
            }
            _ => (ErrorKind::Unavailable, ""),
        };
        let host = self.url.host_str().unwrap_or_default();
        Error::new(kind, format!("{host} answered with status {}{advice}", status.as_u16()))
            .with_retry_after(self.wait(kind))
    }

    /// Quotas are told with every answer; they are a reason to wait only where one is exhausted.
    fn wait(&self, kind: ErrorKind) -> Option<Duration> {
        match kind {
            ErrorKind::RateLimited => limit_wait(self.headers),
            ErrorKind::Unavailable => retry_after(self.headers),
            ErrorKind::Config | ErrorKind::Refused | ErrorKind::Malformed => None,
        }
    }

    /// A redirect is never followed: 307 and 308 would send the secret to wherever it points.
    fn redirected(&self, redactor: &Redactor<'_>) -> Error {
        let target =
            self.headers.get(LOCATION).and_then(|value| self.url.join(value.to_str().ok()?).ok());
        let target = target.as_ref().and_then(Url::host_str).unwrap_or("nowhere");
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "the token endpoint redirects ({}) to {}, which is not followed: check the token URL",
                self.status.as_u16(),
                redactor.say(target)
            ),
        )
    }

    /// The body of a success broke off.
    pub(crate) fn torn(&self, redactor: &Redactor<'_>) -> Error {
        self.unreadable(Unreadable { what: "broke off", may_pass: true }, redactor)
    }

    fn unreadable(&self, error: Unreadable, redactor: &Redactor<'_>) -> Error {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type =
            content_type.map_or_else(|| "none".to_owned(), |said| redactor.say(said));
        let (what, bytes) = (error.what, self.body.len());
        let message =
            format!("the token answer {what} (content type {content_type}, {bytes} bytes)");
        match error.may_pass {
            true => Error::malformed(message).transient(),
            false => Error::malformed(message),
        }
    }
}

/// Takes what is secret in a request out of what a server said about it.
pub(crate) struct Redactor<'a> {
    pub(crate) secrets: Vec<&'a str>,
}

impl Redactor<'_> {
    /// Longest quotation of a server.
    const MAX_CHARS: usize = 300;

    /// Shortest run of letters and digits that gives a secret away.
    const MIN_RUN: usize = 5;

    /// Returns a server's words fit for a message: without the secrets, without control characters, of
    /// bounded length.
    ///
    /// A secret is taken out as it is and percent-encoded. All other encodings leave its letters and
    /// digits together: where the longest such run is left, nothing of the words is.
    pub(crate) fn say(&self, words: &str) -> String {
        let mut words: String = words.chars().filter(|c| !c.is_control()).collect();
        for &secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            words = words.replace(secret, "[redacted]").replace(&encoded, "[redacted]");
            let runs = secret.split(|c: char| !c.is_ascii_alphanumeric());
            let longest = runs.max_by_key(|run| run.len()).unwrap_or_default().to_ascii_lowercase();
            if longest.len() >= Self::MIN_RUN && words.to_ascii_lowercase().contains(&longest) {
                return "[redacted]".to_owned();
            }
        }
        words.chars().take(Self::MAX_CHARS).collect()
    }
}
