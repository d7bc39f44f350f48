//! What a store holds, and how it changes: pure functions of an entry and the time.

use std::time::Duration;

use http::{HeaderName, header::AUTHORIZATION};
use serde::{Deserialize, Serialize};
use sitecore_auth::{Claims, Error, ErrorKind, RefreshPolicy, Token};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// How far another host's clock may be ahead of ours.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How long a key without an expiry is kept.
const KEEP_KEYS: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a failure is kept after its retry time, so that consecutive failures are counted.
const KEEP_FAILURES: Duration = Duration::from_secs(600);

/// The longest wait after a failure for which the issuer specified none, unless it refused the
/// client. A caller that arrives during the wait should still be waiting when the next attempt is
/// made.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The fleet's budget for rejected tokens is the same as that of one cache: this many token
/// requests in a burst, one of which is regained each [`BUDGET_REGAIN`].
const BUDGET: u32 = 6;
const BUDGET_REGAIN: Duration = Duration::from_secs(3_600);

/// An entry takes at least this many bytes, so that one without a token shows whether the store has
/// room for one with a token.
const MIN_BYTES: usize = 4_096;

/// How long the processes do without the lease after one of them could not save its token.
pub(crate) const UNWRITABLE_TIME: Duration = Duration::from_secs(10);

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
    /// When the budget for rejected tokens is full again.
    budget_full_at: u64,
    /// Until then, processes do not wait for a token here.
    unwritable_until: u64,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct SavedToken {
    header: String,
    value: String,
    issued_at: u64,
    /// `None` for a key without an expiry.
    lifetime: Option<u64>,
}

/// A lease holder's failed token request, as reported by the issuer itself.
#[derive(Serialize, Deserialize)]
struct Failure {
    kind: String,
    message: String,
    /// The number of consecutive failures.
    count: u32,
    began_at: u64,
    failed_at: u64,
    retry_at: u64,
    /// Whether the issuer specified `retry_at`.
    by_issuer: bool,
    saved_by: u128,
}

/// A failure whose wait has not passed.
pub(crate) struct ActiveFailure {
    pub(crate) error: Error,
    /// The number of consecutive failures.
    pub(crate) count: u32,
    pub(crate) began_at: Duration,
    pub(crate) retry_in: Duration,
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
        let budget_full_at = self.budget_full_at;
        let (name, value) = token.header();
        let value = value.to_str().unwrap_or_default();
        let bearer = (name == AUTHORIZATION).then(|| value.strip_prefix("Bearer ")).flatten();
        let lifetime = match token.lifetime() {
            None if bearer.is_some() => Some(policy().unknown_lifetime),
            lifetime => lifetime.map(|lifetime| lifetime.min(policy().max_lifetime)),
        };
        let token = SavedToken {
            header: name.as_str().to_owned(),
            value: bearer.unwrap_or(value).to_owned(),
            issued_at: millis(requested_at.saturating_sub(token.age())),
            lifetime: lifetime.map(millis),
        };
        Some(Self { token: Some(token), budget_full_at, ..Self::default() })
    }

    /// Returns the entry with the failure of an attempt that began at `began_at`. Its token stays.
    pub(crate) fn with_failure(
        self,
        error: &Error,
        began_at: Duration,
        now: Duration,
        saved_by: u128,
    ) -> Self {
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
            began_at: millis(began_at),
            failed_at: millis(now),
            retry_at: millis(retry_at),
            by_issuer: error.retry_after().is_some(),
            saved_by,
        };
        Self { failure: Some(failure), ..self }
    }

    /// Returns how long until the budget for rejected tokens allows a token request; zero if it
    /// does now.
    pub(crate) fn budget_wait(&self, now: Duration) -> Duration {
        let allowed_at = self.budget_full_at.saturating_sub(millis(BUDGET_REGAIN * (BUDGET - 1)));
        let wait = Duration::from_millis(allowed_at).saturating_sub(now);
        // A longer wait was written by a clock that is far off.
        if wait > BUDGET_REGAIN + MAX_CLOCK_SKEW { Duration::ZERO } else { wait }
    }

    /// Returns the entry after the budget has paid for a token request.
    pub(crate) fn with_budget_spent(self, now: Duration) -> Self {
        let full_at = self.budget_full_at.max(millis(now)).saturating_add(millis(BUDGET_REGAIN));
        Self { budget_full_at: full_at.min(millis(now + BUDGET_REGAIN * BUDGET)), ..self }
    }

    /// Returns the entry after the budget has got a token request back.
    pub(crate) fn with_budget_given_back(self) -> Self {
        let full_at = self.budget_full_at.saturating_sub(millis(BUDGET_REGAIN));
        Self { budget_full_at: full_at, ..self }
    }

    /// Returns the entry with a note that the store does not accept a token.
    pub(crate) fn with_unwritable(self, now: Duration) -> Self {
        Self { unwritable_until: millis(now + UNWRITABLE_TIME), ..self }
    }

    /// Returns `true` if the store did not accept a token lately.
    pub(crate) fn is_unwritable(&self, now: Duration) -> bool {
        let left = Duration::from_millis(self.unwritable_until).saturating_sub(now);
        !left.is_zero() && left <= UNWRITABLE_TIME
    }

    /// Serializes the entry, and returns how long to keep it.
    pub(crate) fn encode(&mut self, now: Duration) -> (Zeroizing<Vec<u8>>, Duration) {
        let keep = self.keep_from(now);
        (self.written_at, self.keep) = (millis(now), millis(keep));
        // Large enough, because a buffer that grows leaves copies behind.
        let token = self.token.as_ref().map_or(0, |token| token.value.len());
        let message = self.failure.as_ref().map_or(0, |failure| failure.message.len());
        let mut text = Zeroizing::new(Vec::with_capacity(MIN_BYTES + 2 * (token + message)));
        let written = serde_json::to_writer(&mut *text, &self);
        written.expect("numbers and strings are valid JSON");
        if text.len() < MIN_BYTES {
            // White space at the end is valid JSON too.
            text.resize(MIN_BYTES, b' ');
        }
        (text, keep)
    }

    /// Deserializes an entry. If the store reports the `remaining` time, the entry's age follows
    /// from it too. Of two ages the greater counts, because anyone who can write to the store can
    /// save an old entry again.
    pub(crate) fn decode(text: &[u8], now: Duration, remaining: Option<Duration>) -> Option<Self> {
        let mut entry: Self = serde_json::from_slice(text).ok()?;
        let age = remaining.and_then(|remaining| entry.keep.checked_sub(millis(remaining)));
        let Some(age) = age else {
            return Some(entry);
        };
        let (here, there) = (millis(now), entry.written_at.saturating_add(age));
        let convert = |time: u64| time.saturating_add(here).saturating_sub(there);
        if let Some(token) = &mut entry.token {
            let issued_at = convert(token.issued_at);
            // The clocks differ by more than the lifetime, so the writer's clock says nothing. But
            // if the token's own times agree with it, it was right: either an old entry was saved
            // again, or our clock is far ahead.
            let is_off = token.lifetime.is_some_and(|lifetime| here.abs_diff(there) > lifetime);
            let is_off = is_off && !(here > there && token.agrees_with_issuer());
            token.issued_at = if is_off { issued_at } else { token.issued_at.min(issued_at) };
        }
        entry.budget_full_at = entry.budget_full_at.min(convert(entry.budget_full_at));
        entry.unwritable_until = entry.unwritable_until.min(convert(entry.unwritable_until));
        if let Some(failure) = &mut entry.failure {
            failure.began_at = convert(failure.began_at);
            failure.failed_at = failure.failed_at.min(convert(failure.failed_at));
            failure.retry_at = failure.retry_at.min(convert(failure.retry_at));
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
        let budget = Duration::from_millis(self.budget_full_at);
        let unwritable = Duration::from_millis(self.unwritable_until);
        let until = token.max(failure).max(budget).max(unwritable);
        until.saturating_sub(now).max(Duration::from_secs(1))
    }

    /// Returns the token if it can replace `replacing`.
    pub(crate) fn token(&self, replacing: Option<&Token>, now: Duration) -> Option<Token> {
        self.token.as_ref()?.adopt(replacing, now)
    }

    /// Returns the failure while its wait lasts. The cache that saved it gets `None`, because it
    /// already decides when to retry.
    pub(crate) fn failure(&self, now: Duration, reader: u128) -> Option<ActiveFailure> {
        let failure = self.failure.as_ref().filter(|failure| failure.saved_by != reader)?;
        failure.active(now)
    }
}

impl Failure {
    fn active(&self, now: Duration) -> Option<ActiveFailure> {
        let failed_at = Duration::from_millis(self.failed_at);
        let retry_at = Duration::from_millis(self.retry_at);
        let is_plausible = failed_at <= now + MAX_CLOCK_SKEW
            && retry_at.saturating_sub(failed_at) <= policy().max_retry_after;
        let retry_in = retry_at.checked_sub(now).filter(|wait| is_plausible && !wait.is_zero())?;
        let message = format!("another cache's token request failed: {}", self.message);
        let error = Error::new(kind_of(&self.kind), message).with_issuer_responded();
        Some(ActiveFailure {
            error: match self.by_issuer {
                true => error.with_retry_after(retry_in),
                // Each cache chooses its own backoff, by whether it has a usable token.
                false => error,
            },
            count: self.count,
            began_at: Duration::from_millis(self.began_at),
            retry_in,
        })
    }
}

impl SavedToken {
    /// Returns `true` if the token says that it was issued about when the writer's clock says.
    fn agrees_with_issuer(&self) -> bool {
        let lifetime = self.lifetime.unwrap_or_default();
        let expires_at = Claims::decode(&self.value).and_then(|claims| claims.expires_at());
        let issued_at = expires_at.map(|at| millis(at).saturating_sub(lifetime));
        issued_at.is_some_and(|at| at.abs_diff(self.issued_at) <= lifetime)
    }

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
    let failures = failures.saturating_add(1);
    match kind {
        ErrorKind::Refused => policy.cooldown_refused.after(failures),
        _ => policy.cooldown_without_token.after(failures).min(MAX_BACKOFF),
    }
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
