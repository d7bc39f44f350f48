//! What a store holds, and how it changes: pure functions of an entry and the time.

use std::time::Duration;

use http::{HeaderName, header::AUTHORIZATION};
use serde::{Deserialize, Serialize};
use sitecore_auth::{Error, ErrorKind, RefreshPolicy, Result, Token};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// How far another host's clock may be ahead of ours.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How long a key without an expiry is kept.
const KEEP_KEYS: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a failure is kept after its retry time, so that consecutive failures are counted.
const KEEP_FAILURES: Duration = Duration::from_secs(600);

/// The newest token and the failure that followed it, if any. A failure does not remove a token
/// that other processes can use.
///
/// Times are milliseconds since the Unix epoch, by the clock of the host that wrote them.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Entry {
    written_at: u64,
    /// How long the store was asked to keep the entry.
    keep: u64,
    token: Option<SavedToken>,
    failure: Option<Failure>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct SavedToken {
    header: String,
    value: String,
    issued_at: u64,
    /// `None` for a key without an expiry.
    lifetime: Option<u64>,
}

/// A failed token request of a lease holder.
#[derive(Serialize, Deserialize)]
struct Failure {
    kind: String,
    message: String,
    /// The number of consecutive failures.
    count: u32,
    failed_at: u64,
    retry_at: u64,
    /// Whether the issuer specified `retry_at`.
    by_issuer: bool,
    saved_by: u64,
}

impl Entry {
    /// Returns the entry with a token that was requested at `requested_at`, or `None` if the entry
    /// already has a newer one.
    pub(crate) fn with_token(
        &self,
        token: &Token,
        requested_at: Duration,
        now: Duration,
    ) -> Option<Self> {
        let saved = self.token.as_ref();
        let newer = saved.filter(|saved| saved.issued_at > millis(requested_at));
        if newer.and_then(|newer| newer.adopt(None, now)).is_some() {
            return None;
        }
        let (name, value) = token.header();
        let value = value.to_str().unwrap_or_default();
        let bearer = (name == AUTHORIZATION).then(|| value.strip_prefix("Bearer ")).flatten();
        let lifetime = match token.lifetime() {
            None if bearer.is_some() => Some(policy().unknown_lifetime),
            lifetime => lifetime,
        };
        let token = SavedToken {
            header: name.as_str().to_owned(),
            value: bearer.unwrap_or(value).to_owned(),
            issued_at: millis(requested_at.saturating_sub(token.age())),
            lifetime: lifetime.map(millis),
        };
        Some(Self { token: Some(token), ..Self::default() })
    }

    /// Returns the entry with a failure. Its token stays.
    pub(crate) fn with_failure(self, error: &Error, now: Duration, saved_by: u64) -> Self {
        let previous = self.failure.as_ref();
        let failures = previous.map_or(0, |failure| failure.count);
        let retry_at = match error.retry_after() {
            Some(wait) => now.saturating_add(wait.min(policy().max_retry_after)),
            // A process that keeps failing must not postpone the retry of the others. Nor does a
            // backoff outlast the stored token, because callers need a new one then.
            None => {
                let backoff_ends = now.saturating_add(backoff(error.kind(), failures));
                let own = previous.filter(|failure| failure.saved_by == saved_by);
                let own = own.map(|failure| Duration::from_millis(failure.retry_at));
                let usable_until = self.token.as_ref().and_then(SavedToken::usable_until);
                [own, usable_until]
                    .into_iter()
                    .flatten()
                    .filter(|at| *at > now)
                    .fold(backoff_ends, Duration::min)
            }
        };
        let failure = Failure {
            kind: kind_name(error.kind()).to_owned(),
            message: error.cause(),
            count: failures.saturating_add(1),
            failed_at: millis(now),
            retry_at: millis(retry_at),
            by_issuer: error.retry_after().is_some(),
            saved_by,
        };
        Self { failure: Some(failure), ..self }
    }

    /// Serializes the entry, and returns how long to keep it.
    pub(crate) fn encode(mut self, now: Duration) -> (Zeroizing<Vec<u8>>, Duration) {
        let keep = self.keep_from(now);
        (self.written_at, self.keep) = (millis(now), millis(keep));
        let text = serde_json::to_vec(&self);
        let text = text.expect("numbers and strings are valid JSON");
        (Zeroizing::new(text), keep)
    }

    /// Deserializes an entry. If the store reports the `remaining` time, the entry's age follows
    /// from it, and all times are converted to this host's clock.
    pub(crate) fn decode(text: &[u8], now: Duration, remaining: Option<Duration>) -> Option<Self> {
        let mut entry: Self = serde_json::from_slice(text).ok()?;
        let age = remaining.and_then(|remaining| entry.keep.checked_sub(millis(remaining)));
        let Some(age) = age else {
            return Some(entry);
        };
        let (here, there) = (millis(now), entry.written_at.saturating_add(age));
        let convert = |time: &mut u64| *time = time.saturating_add(here).saturating_sub(there);
        if let Some(token) = &mut entry.token {
            convert(&mut token.issued_at);
        }
        if let Some(failure) = &mut entry.failure {
            convert(&mut failure.failed_at);
            convert(&mut failure.retry_at);
        }
        Some(entry)
    }

    fn keep_from(&self, now: Duration) -> Duration {
        let token = self.token.as_ref().map_or(Duration::ZERO, |token| {
            token.lifetime.map_or(now + KEEP_KEYS, |lifetime| {
                Duration::from_millis(token.issued_at.saturating_add(lifetime))
            })
        });
        let failure = self.failure.as_ref().map_or(Duration::ZERO, |failure| {
            Duration::from_millis(failure.retry_at).saturating_add(KEEP_FAILURES)
        });
        let until = token.max(failure);
        until.saturating_sub(now).max(Duration::from_secs(1))
    }

    /// Returns what process `reader` should use instead of its own token request: the stored token
    /// if it can replace `replacing`, or the failure while its backoff lasts. `None` if there is
    /// neither.
    pub(crate) fn adopt(
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
        failure.adopt(now, reader).map(Err)
    }
}

impl Failure {
    /// Returns the error until the retry time. The process that saved it gets `None`, because its
    /// own cache already decides when to retry.
    fn adopt(&self, now: Duration, reader: u64) -> Option<Error> {
        let failed_at = Duration::from_millis(self.failed_at);
        let retry_at = Duration::from_millis(self.retry_at);
        let is_plausible = failed_at <= now + MAX_CLOCK_SKEW
            && retry_at.saturating_sub(failed_at) <= policy().max_retry_after;
        (is_plausible && retry_at > now && self.saved_by != reader).then(|| {
            let message = format!("another process's token request failed: {}", self.message);
            let error = Error::new(kind_of(&self.kind), message);
            match self.by_issuer {
                true => error.with_retry_after(retry_at - now),
                // Each cache chooses its own backoff, by whether it has a usable token.
                false => error,
            }
        })
    }
}

impl SavedToken {
    /// Returns when caches stop using the token.
    fn usable_until(&self) -> Option<Duration> {
        let lifetime = Duration::from_millis(self.lifetime?);
        let usable = lifetime.saturating_sub(policy().margin_for(lifetime));
        Some(Duration::from_millis(self.issued_at) + usable)
    }

    /// Returns the token if it is usable and newer than the one to replace.
    fn adopt(&self, replacing: Option<&Token>, now: Duration) -> Option<Token> {
        let issued = Duration::from_millis(self.issued_at);
        let age = now.saturating_sub(issued);
        let lifetime = self.lifetime.map(Duration::from_millis);
        // If our clock is behind by more than the margin, we would use the token after its expiry.
        if issued > now + lifetime.map_or(MAX_CLOCK_SKEW, |lifetime| policy().margin_for(lifetime))
        {
            return None;
        }
        let token = match lifetime {
            Some(lifetime)
                if lifetime > policy().max_lifetime
                    || age >= lifetime.saturating_sub(policy().margin_for(lifetime)) =>
            {
                return None;
            }
            Some(lifetime) => Token::bearer(self.value.as_str(), lifetime).ok()?.with_age(age),
            None => {
                let name = HeaderName::try_from(self.header.as_str()).ok()?;
                Token::api_key(name, self.value.as_str()).ok()?
            }
        };
        let Some(replacing) = replacing else {
            return Some(token);
        };
        let is_same = token.header() == replacing.header();
        let is_older = issued_at(replacing).is_some_and(|at| issued < at);
        (!is_same && !is_older).then_some(token)
    }
}

/// Returns the policy that stored tokens and failures follow. Caches with another policy can
/// share too, and still follow their own.
fn policy() -> RefreshPolicy {
    RefreshPolicy::default()
}

/// Returns when a cache's token was issued. This is slightly early, because the cache reads the
/// clock before the store does.
fn issued_at(token: &Token) -> Option<Duration> {
    let expires_at = u64::try_from(token.expires_at()?.timestamp_millis()).ok()?;
    Duration::from_millis(expires_at).checked_sub(token.lifetime()?)
}

/// Returns how long to wait after a failure that followed this many others.
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
