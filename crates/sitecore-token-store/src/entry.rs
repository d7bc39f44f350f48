//! What is stored, and what becomes of it: pure functions of the entry and the time.

use std::time::Duration;

use http::{HeaderName, header::AUTHORIZATION};
use serde::{Deserialize, Serialize};
use sitecore_auth::{Error, ErrorKind, RefreshPolicy, Result, Token};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// How far another host's clock may be ahead.
const AHEAD: Duration = Duration::from_secs(60);

/// A key without expiry is asked for anew after this.
const KEEP_KEYS: Duration = Duration::from_secs(30 * 24 * 3600);

/// The token that was granted last and, beside it, why there is none after it: a failure takes no token away
/// that others can use. Times are milliseconds since the UNIX epoch, by the clock of the host that wrote them.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Entry {
    written: u64,
    /// How long the store was told to keep it.
    kept: u64,
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
    /// Whether the issuer has said so.
    named: bool,
    saved_by: u64,
}

impl Entry {
    /// Returns the entry after a grant for which the issuer was asked at this time; `None` if there is a newer
    /// token by now.
    pub(crate) fn granted(&self, token: &Token, asked: Duration, now: Duration) -> Option<Self> {
        let held = self.token.as_ref();
        let newer = held.filter(|held| held.issued > millis(asked));
        if newer.and_then(|held| held.adopt(None, now)).is_some() {
            return None;
        }
        let (name, value) = token.header();
        let text = value.to_str().unwrap_or_default();
        let bearer = (name == AUTHORIZATION).then(|| text.strip_prefix("Bearer ")).flatten();
        let life = match token.lifetime() {
            None if bearer.is_some() => Some(policy().unknown_lifetime),
            life => life,
        };
        let token = Granted {
            header: name.as_str().to_owned(),
            text: bearer.unwrap_or(text).to_owned(),
            issued: millis(asked.saturating_sub(token.age())),
            life: life.map(millis),
        };
        Some(Self { token: Some(token), ..Self::default() })
    }

    /// Returns the entry after a grant that failed: the token that was there stays.
    pub(crate) fn failed(self, error: &Error, now: Duration, saved_by: u64) -> Self {
        let before = self.failure.as_ref();
        let failures = before.map_or(0, |failure| failure.count);
        let until = match error.retry_after() {
            Some(named) => now.saturating_add(named.min(policy().max_retry_after)),
            // Who fails alone does not keep the others from trying. And nobody waits for longer than there is a
            // token: then somebody is in need.
            None => {
                let own = now.saturating_add(backoff(error.kind(), failures));
                let earlier = before.filter(|failure| failure.saved_by == saved_by);
                let earlier = earlier.map(|failure| Duration::from_millis(failure.until));
                let usable = self.token.as_ref().and_then(Granted::usable_until);
                [earlier, usable]
                    .into_iter()
                    .flatten()
                    .filter(|at| *at > now)
                    .fold(own, Duration::min)
            }
        };
        let failure = Failure {
            kind: kind_name(error.kind()).to_owned(),
            why: causes(error),
            count: failures.saturating_add(1),
            at: millis(now),
            until: millis(until),
            named: error.retry_after().is_some(),
            saved_by,
        };
        Self { failure: Some(failure), ..self }
    }

    /// Returns the entry's text, and how long it makes sense to keep it.
    pub(crate) fn written(mut self, now: Duration) -> (Zeroizing<Vec<u8>>, Duration) {
        let keep = self.keep(now);
        (self.written, self.kept) = (millis(now), millis(keep));
        let text = serde_json::to_vec(&self);
        let text = text.expect("numbers and texts are JSON");
        (Zeroizing::new(text), keep)
    }

    /// Reads an entry's text, and puts its times on this host's clock: a store that says for how much longer it
    /// keeps the entry says how long ago that was written, whatever the two hosts' clocks say.
    pub(crate) fn read(text: &[u8], now: Duration, remaining: Option<Duration>) -> Option<Self> {
        let mut entry: Self = serde_json::from_slice(text).ok()?;
        let age = remaining.and_then(|left| entry.kept.checked_sub(millis(left)));
        let Some(age) = age else {
            return Some(entry);
        };
        let (here, there) = (millis(now), entry.written.saturating_add(age));
        let moved = |time: &mut u64| *time = time.saturating_add(here).saturating_sub(there);
        if let Some(token) = &mut entry.token {
            moved(&mut token.issued);
        }
        if let Some(failure) = &mut entry.failure {
            moved(&mut failure.at);
            moved(&mut failure.until);
        }
        Some(entry)
    }

    fn keep(&self, now: Duration) -> Duration {
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

    /// Finds what the entry answers `reader`, who wants to be rid of the token `replacing`: a token, or that nobody
    /// should ask yet; `None` if there is nothing of use.
    pub(crate) fn answer(
        &self,
        replacing: Option<&Token>,
        now: Duration,
        reader: u64,
    ) -> Option<Result<Token>> {
        let token = self.token.as_ref();
        if let Some(token) = token.and_then(|token| token.adopt(replacing, now)) {
            return Some(Ok(token));
        }
        let failure = self.failure.as_ref()?;
        failure.error(now, reader).map(Err)
    }
}

impl Failure {
    /// Returns the error, while nobody should ask. Whoever saved it knows it already, and asks again when its own
    /// cache says so.
    fn error(&self, now: Duration, reader: u64) -> Option<Error> {
        let (at, until) = (Duration::from_millis(self.at), Duration::from_millis(self.until));
        let is_believed = at <= now + AHEAD && until.saturating_sub(at) <= policy().max_retry_after;
        (is_believed && until > now && self.saved_by != reader).then(|| {
            let why = format!("another process was told: {}", self.why);
            let error = Error::new(kind_of(&self.kind), why);
            match self.named {
                true => error.with_retry_after(until - now),
                // How long it waits by itself is for each cache to say, which knows what it holds.
                false => error,
            }
        })
    }
}

impl Granted {
    /// Returns until when caches use it.
    fn usable_until(&self) -> Option<Duration> {
        let life = Duration::from_millis(self.life?);
        Some(Duration::from_millis(self.issued) + life.saturating_sub(policy().margin_for(life)))
    }

    /// Returns the token, if it is of use and newer than the one that is to be replaced.
    fn adopt(&self, replacing: Option<&Token>, now: Duration) -> Option<Token> {
        let issued = Duration::from_millis(self.issued);
        let age = now.saturating_sub(issued);
        let life = self.life.map(Duration::from_millis);
        // A host whose clock is behind by more would take it for younger than the margin allows for.
        if issued > now + life.map_or(AHEAD, |life| policy().margin_for(life)) {
            return None;
        }
        let token = match life {
            Some(life)
                if life > policy().max_lifetime
                    || age >= life.saturating_sub(policy().margin_for(life)) =>
            {
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
        let is_older = replaced_issue(replacing).is_some_and(|at| issued < at);
        (!is_same && !is_older).then_some(token)
    }
}

/// Returns all that the error says, of which another process has no more than the text.
fn causes(error: &Error) -> String {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        why = format!("{why}: {error}");
        cause = error.source();
    }
    why
}

/// Returns the numbers of the caches that share. Those that have others share all the same, and keep to their own.
fn policy() -> RefreshPolicy {
    RefreshPolicy::default()
}

/// Returns when a token that a cache holds was issued; a little earlier, for the cache asked before the store did.
fn replaced_issue(token: &Token) -> Option<Duration> {
    let ends = u64::try_from(token.expires_at()?.timestamp_millis()).ok()?;
    Duration::from_millis(ends).checked_sub(token.lifetime()?)
}

/// Returns how long nobody should ask after this many failures before.
fn backoff(kind: ErrorKind, failures: u32) -> Duration {
    let policy = policy();
    let backoff = match kind {
        ErrorKind::Refused => policy.cooldown_refused,
        _ => policy.cooldown_without_token,
    };
    backoff.after(failures.saturating_add(1))
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

#[cfg(test)]
mod tests;
