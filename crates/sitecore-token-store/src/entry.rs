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

/// An entry with a key that does not expire is asked for anew after this.
const KEEP_KEYS: Duration = Duration::from_secs(30 * 24 * 3600);

/// Times are milliseconds since the UNIX epoch, by the clock of the host that wrote the entry.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) enum Entry {
    Token {
        header: String,
        text: String,
        issued: u64,
        /// `None` for a key without expiry.
        life: Option<u64>,
    },
    /// The last holder of the lease was given no token.
    Failure {
        kind: String,
        why: String,
        /// In a row.
        count: u32,
        at: u64,
        until: u64,
        saved_by: u64,
    },
}

/// What an entry means to somebody who needs a token.
pub(crate) enum Meaning {
    Token(Token),
    /// Nobody should ask yet.
    Failure(Error),
    /// There is nothing of use. So many failures in a row came before.
    Nothing {
        failures: u32,
    },
}

const NOTHING: Meaning = Meaning::Nothing { failures: 0 };

impl Entry {
    pub(crate) fn of_token(token: &Token, issued: Duration) -> Self {
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
        Self::Token {
            header: name.as_str().to_owned(),
            text: text.to_owned(),
            issued: millis(issued),
            life: life.map(millis),
        }
    }

    pub(crate) fn of_failure(error: &Error, failures: u32, now: Duration, saved_by: u64) -> Self {
        let wait = error
            .retry_after()
            .unwrap_or_else(|| backoff(error.kind(), failures));
        Self::Failure {
            kind: kind_name(error.kind()).to_owned(),
            why: error.to_string(),
            count: failures.saturating_add(1),
            at: millis(now),
            until: millis(now.saturating_add(wait)),
            saved_by,
        }
    }

    /// Returns how long it makes sense to keep the entry.
    pub(crate) fn keep(&self, now: Duration) -> Duration {
        let until = match self {
            Self::Token {
                issued,
                life: Some(life),
                ..
            } => issued.saturating_add(*life),
            Self::Token { life: None, .. } => return KEEP_KEYS,
            // A while longer, so that failures in a row are counted.
            Self::Failure { until, .. } => until.saturating_add(millis(10 * AHEAD)),
        };
        Duration::from_millis(until)
            .saturating_sub(now)
            .max(Duration::from_secs(1))
    }

    /// Finds what the entry means to `reader`, who wants to be rid of the token `replacing`.
    pub(crate) fn meaning(&self, replacing: Option<&Token>, now: Duration, reader: u64) -> Meaning {
        match self {
            Self::Token {
                header,
                text,
                issued,
                life,
            } => {
                let token = adopt(header, text, *issued, *life, replacing, now);
                token.map_or(NOTHING, Meaning::Token)
            }
            Self::Failure {
                kind,
                why,
                count,
                at,
                until,
                saved_by,
            } => {
                let (at, until) = (Duration::from_millis(*at), Duration::from_millis(*until));
                if at > now + AHEAD || until.saturating_sub(at) > MAX_LIFE {
                    return NOTHING;
                }
                // Whoever saved it knows it already, and asks again when its own cache says so.
                if until <= now || *saved_by == reader {
                    return Meaning::Nothing { failures: *count };
                }
                let error = Error::new(kind_of(kind), format!("another process was told: {why}"));
                Meaning::Failure(error.with_retry_after(until - now))
            }
        }
    }
}

/// Returns the token, if it is of use and newer than the one that is to be replaced.
fn adopt(
    header: &str,
    text: &str,
    issued: u64,
    life: Option<u64>,
    replacing: Option<&Token>,
    now: Duration,
) -> Option<Token> {
    let issued = Duration::from_millis(issued);
    if issued > now + AHEAD {
        return None;
    }
    let age = now.saturating_sub(issued);
    let name = HeaderName::try_from(header).ok()?;
    let token = match life.map(Duration::from_millis) {
        // Too old to be handed out, by the cache's own margin.
        Some(life) if life > MAX_LIFE || age >= life.saturating_sub((life / 10).min(AHEAD)) => {
            return None;
        }
        Some(life) => Token::bearer(text, life).ok()?.with_age(age),
        None => Token::api_key(name, text).ok()?,
    };
    let Some(replacing) = replacing else {
        return Some(token);
    };
    let is_same = token.header() == replacing.header();
    let ends = life.map(|life| issued + Duration::from_millis(life));
    let replaced_ends = replacing
        .expires_at()
        .and_then(|at| u64::try_from(at.timestamp_millis()).ok());
    let is_older = match (ends, replaced_ends) {
        (Some(ends), Some(replaced)) => ends < Duration::from_millis(replaced),
        _ => false,
    };
    (!is_same && !is_older).then_some(token)
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
