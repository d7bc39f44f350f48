//! What is stored, and what becomes of it: pure functions of the entry and the time.

use std::time::Duration;

use http::{HeaderName, header::AUTHORIZATION};
use serde::{Deserialize, Serialize};
use sitecore_auth::{Error, ErrorKind, Token};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// How far another host's clock may be ahead.
const AHEAD: Duration = Duration::from_secs(60);

/// More life than this is not believed.
const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The life of a bearer token whose issuer named none.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);

/// A key without expiry is asked for anew after this.
const KEEP_KEYS: Duration = Duration::from_secs(30 * 24 * 3600);

/// The token that was granted last and, beside it, why there is none after it: a failure takes no token away
/// that others can use. Times are milliseconds since the UNIX epoch, by the clock of the host that wrote them.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Entry {
    token: Option<Granted>,
    failure: Option<Failure>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Granted {
    header: String,
    text: String,
    issued: u64,
    /// `None` for a key without expiry.
    life: Option<u64>,
}

/// The last holder of the lease was given no token.
#[derive(Serialize, Deserialize)]
struct Failure {
    kind: String,
    why: String,
    /// In a row.
    count: u32,
    at: u64,
    until: u64,
    saved_by: u64,
}

/// What an entry means to somebody who needs a token.
pub(crate) enum Meaning {
    Token(Token),
    /// Nobody should ask yet.
    Failure(Error),
    /// There is nothing of use.
    Nothing,
}

impl Entry {
    /// Returns the entry after a grant.
    pub(crate) fn granted(token: &Token, issued: Duration) -> Self {
        let (name, value) = token.header();
        let text = value.to_str().unwrap_or_default();
        let is_bearer = name == AUTHORIZATION;
        let text = if is_bearer {
            text.trim_start_matches("Bearer ")
        } else {
            text
        };
        let life = match token.lifetime() {
            None if is_bearer => Some(UNKNOWN_LIFE),
            life => life,
        };
        let token = Granted {
            header: name.as_str().to_owned(),
            text: text.to_owned(),
            issued: millis(issued),
            life: life.map(millis),
        };
        Self {
            token: Some(token),
            failure: None,
        }
    }

    /// Returns the entry after a grant that failed: the token that was there stays.
    pub(crate) fn failed(self, error: &Error, now: Duration, saved_by: u64) -> Self {
        let failures = self.failure.map_or(0, |failure| failure.count);
        let wait = error
            .retry_after()
            .unwrap_or_else(|| backoff(error.kind(), failures));
        let failure = Failure {
            kind: kind_name(error.kind()).to_owned(),
            why: error.to_string(),
            count: failures.saturating_add(1),
            at: millis(now),
            until: millis(now.saturating_add(wait)),
            saved_by,
        };
        Self {
            failure: Some(failure),
            ..self
        }
    }

    /// Returns how long it makes sense to keep the entry.
    pub(crate) fn keep(&self, now: Duration) -> Duration {
        let token = self.token.as_ref().map_or(Duration::ZERO, |token| {
            token.life.map_or(now + KEEP_KEYS, |life| {
                Duration::from_millis(token.issued.saturating_add(life))
            })
        });
        // A while longer, so that failures in a row are counted.
        let failure = self.failure.as_ref().map_or(Duration::ZERO, |failure| {
            Duration::from_millis(failure.until).saturating_add(10 * AHEAD)
        });
        let until = token.max(failure);
        until.saturating_sub(now).max(Duration::from_secs(1))
    }

    /// Finds what the entry means to `reader`, who wants to be rid of the token `replacing`.
    pub(crate) fn meaning(&self, replacing: Option<&Token>, now: Duration, reader: u64) -> Meaning {
        let token = self.token.as_ref();
        if let Some(token) = token.and_then(|token| token.adopt(replacing, now)) {
            return Meaning::Token(token);
        }
        match self
            .failure
            .as_ref()
            .and_then(|failure| failure.error(now, reader))
        {
            Some(error) => Meaning::Failure(error),
            None => Meaning::Nothing,
        }
    }
}

impl Failure {
    /// Returns the error, while nobody should ask. Whoever saved it knows it already, and asks again when its own
    /// cache says so.
    fn error(&self, now: Duration, reader: u64) -> Option<Error> {
        let (at, until) = (
            Duration::from_millis(self.at),
            Duration::from_millis(self.until),
        );
        let is_believed = at <= now + AHEAD && until.saturating_sub(at) <= MAX_LIFE;
        (is_believed && until > now && self.saved_by != reader).then(|| {
            let why = format!("another process was told: {}", self.why);
            Error::new(kind_of(&self.kind), why).with_retry_after(until - now)
        })
    }
}

impl Granted {
    /// Returns the token, if it is of use and newer than the one that is to be replaced.
    fn adopt(&self, replacing: Option<&Token>, now: Duration) -> Option<Token> {
        let issued = Duration::from_millis(self.issued);
        if issued > now + AHEAD {
            return None;
        }
        let age = now.saturating_sub(issued);
        let life = self.life.map(Duration::from_millis);
        let token = match life {
            // Too old to be handed out, by the cache's own margin.
            Some(life) if life > MAX_LIFE || age >= life.saturating_sub((life / 10).min(AHEAD)) => {
                return None;
            }
            Some(life) => Token::bearer(self.text.as_str(), life).ok()?.with_age(age),
            None => {
                let name = HeaderName::try_from(self.header.as_str()).ok()?;
                Token::api_key(name, self.text.as_str()).ok()?
            }
        };
        let Some(replacing) = replacing else {
            return Some(token);
        };
        let is_same = token.header() == replacing.header();
        let replaced_ends = replacing
            .expires_at()
            .and_then(|at| u64::try_from(at.timestamp_millis()).ok());
        let is_older = match (life, replaced_ends) {
            (Some(life), Some(replaced)) => issued + life < Duration::from_millis(replaced),
            _ => false,
        };
        (!is_same && !is_older).then_some(token)
    }
}

/// Returns how long nobody should ask after this many failures before.
fn backoff(kind: ErrorKind, failures: u32) -> Duration {
    let (first, most) = match kind {
        ErrorKind::Refused => (60, 900),
        _ => (1, 30),
    };
    let factor = 1_u64.checked_shl(failures).unwrap_or(u64::MAX);
    Duration::from_secs(u64::min(factor.saturating_mul(first), most))
}

const KINDS: [(ErrorKind, &str); 5] = [
    (ErrorKind::Config, "config"),
    (ErrorKind::Refused, "refused"),
    (ErrorKind::RateLimited, "rate_limited"),
    (ErrorKind::Malformed, "malformed"),
    (ErrorKind::Unavailable, "unavailable"),
];

fn kind_name(kind: ErrorKind) -> &'static str {
    let found = KINDS.iter().find(|(known, _)| *known == kind);
    found.map_or("unavailable", |(_, name)| name)
}

fn kind_of(name: &str) -> ErrorKind {
    let found = KINDS.iter().find(|(_, known)| *known == name);
    found.map_or(ErrorKind::Unavailable, |(kind, _)| *kind)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
