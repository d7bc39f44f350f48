//! What is stored, and what becomes of it: pure functions of the entry and the time.

use std::time::Duration;

use http::{HeaderName, header::AUTHORIZATION};
use serde::{Deserialize, Serialize};
use sitecore_auth::{Error, ErrorKind, Result, Token};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

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
    saved_by: u64,
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
            issued: millis(issued.saturating_sub(token.age())),
            life: life.map(millis),
        };
        Self {
            token: Some(token),
            ..Self::default()
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const HOUR: u64 = 3_600;
    const OURS: u64 = 1;
    const OTHERS: u64 = 2;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn token(text: &str, life: u64) -> Token {
        Token::bearer(text, at(life)).unwrap()
    }

    /// The entry as somebody reads it who has this clock.
    fn read(entry: Entry, written: u64, now: u64, remaining: Option<Duration>) -> Entry {
        let (text, _) = entry.written(at(written));
        Entry::read(&text, at(now), remaining).unwrap()
    }

    fn granted(life: u64) -> Entry {
        Entry::granted(&token("new", life), at(NOW))
    }

    /// The age of the token that is adopted at this time, in seconds.
    fn age(entry: &Entry, now: u64) -> Option<u64> {
        let answer = entry.answer(None, at(now), OURS)?;
        Some(answer.ok()?.age().as_secs())
    }

    #[test]
    fn a_token_is_adopted_with_its_age_until_its_margin() {
        for (life, elapsed, adopted) in [
            (HOUR, 0, Some(0)),
            (HOUR, 1_800, Some(1_800)),
            (HOUR, HOUR - 61, Some(HOUR - 61)),
            (HOUR, HOUR - 60, None),
            (HOUR, HOUR, None),
            // A tenth of a short life.
            (100, 89, Some(89)),
            (100, 90, None),
            (30 * 24 * HOUR, 1, Some(1)),
            (30 * 24 * HOUR + 1, 1, None),
        ] {
            assert_eq!(
                age(&granted(life), NOW + elapsed),
                adopted,
                "{life} {elapsed}"
            );
        }
        // Another host's clock may be a little ahead.
        assert_eq!(age(&granted(HOUR), NOW - 60), Some(0));
        assert_eq!(age(&granted(HOUR), NOW - 61), None);
    }

    #[test]
    fn a_token_that_a_source_remembered_keeps_its_age() {
        let token = token("new", HOUR).with_age(at(1_000));
        assert_eq!(age(&Entry::granted(&token, at(NOW)), NOW), Some(1_000));
    }

    #[test]
    fn what_remains_says_how_old_it_is_whatever_the_clocks_say() {
        let left = |seconds| Some(at(seconds));
        for (there, here, remaining, adopted) in [
            (NOW, NOW + 5, None, Some(5)),
            (NOW, NOW + 5, left(HOUR), Some(0)),
            (NOW, NOW + 5, left(HOUR - 600), Some(600)),
            (NOW, NOW + 90 * HOUR, left(HOUR - 600), Some(600)),
            (NOW, NOW - 90 * HOUR, left(HOUR - 600), Some(600)),
            (NOW, NOW - 90 * HOUR, left(60), None),
            (NOW, NOW - 90 * HOUR, left(0), None),
            // Nobody keeps it for longer than it was to be kept: the store is not believed.
            (NOW, NOW + 600, left(HOUR + 1), Some(600)),
        ] {
            let entry = read(granted(HOUR), there, here, remaining);
            assert_eq!(age(&entry, here), adopted, "{here} {remaining:?}");
        }
    }

    #[test]
    fn a_failure_that_others_had_is_told_while_nobody_should_ask() {
        let error = |kind| Error::new(kind, "sentinel");
        let unavailable = ErrorKind::Unavailable;
        for (error, before, waits) in [
            (error(unavailable), 0, 1),
            (error(unavailable), 3, 8),
            (error(unavailable), 80, 30),
            (error(ErrorKind::Refused), 0, 60),
            (error(ErrorKind::Refused), 9, 900),
            (error(unavailable).with_retry_after(at(77)), 9, 77),
        ] {
            let mut entry = Entry::default();
            for _ in 0..=before {
                entry = entry.failed(&error, at(NOW), OTHERS);
            }
            let entry = read(entry, NOW, NOW, None);
            let told = entry.answer(None, at(NOW), OURS).unwrap().unwrap_err();
            assert_eq!(told.kind(), error.kind());
            assert_eq!(told.retry_after(), Some(at(waits)), "{before}");
            assert!(entry.answer(None, at(NOW + waits), OURS).is_none());
            // Who had it knows it already.
            assert!(entry.answer(None, at(NOW), OTHERS).is_none());
            // From the future, or for ever: not believed.
            assert!(entry.answer(None, at(NOW - 61), OURS).is_none());
            assert!(entry.answer(None, at(NOW - 60), OURS).is_some());
            // By the store's clock.
            let (_, keep) = Entry::default()
                .failed(&error, at(NOW), OTHERS)
                .written(at(NOW));
            assert!(keep >= at(HOUR / 6), "{keep:?}");
        }
        let long = error(unavailable).with_retry_after(at(31 * 24 * HOUR));
        let entry = Entry::default().failed(&long, at(NOW), OTHERS);
        assert!(entry.answer(None, at(NOW), OURS).is_none());
        // By the clock of the store: half of its wait is over.
        let wait = error(unavailable).with_retry_after(at(100));
        let entry = Entry::default().failed(&wait, at(NOW), OTHERS);
        let kept = at(100) + 10 * AHEAD;
        let entry = read(entry, NOW, NOW + HOUR, Some(kept - at(50)));
        let told = entry.answer(None, at(NOW + HOUR), OURS).unwrap();
        assert_eq!(told.unwrap_err().retry_after(), Some(at(50)));
    }

    #[test]
    fn a_failure_takes_no_token_away_and_a_grant_ends_it() {
        let error = Error::new(ErrorKind::Unavailable, "down");
        let entry = granted(HOUR).failed(&error, at(NOW), OTHERS);
        assert_eq!(age(&entry, NOW), Some(0));
        let refused = entry.answer(Some(&token("new", HOUR)), at(NOW), OURS);
        assert!(refused.unwrap().is_err());
        assert!(granted(HOUR).failure.is_none());
    }

    #[test]
    fn an_entry_is_kept_for_as_long_as_it_is_of_use() {
        let keep = |entry: Entry, now| entry.written(at(now)).1.as_secs();
        assert_eq!(keep(granted(HOUR), NOW), HOUR);
        assert_eq!(keep(granted(HOUR), NOW + 600), HOUR - 600);
        assert_eq!(keep(granted(HOUR), NOW + 2 * HOUR), 1);
        let key = Token::api_key(HeaderName::from_static("sc_apikey"), "key").unwrap();
        let key = Entry::granted(&key, at(NOW));
        assert_eq!(age(&key, NOW + 300 * 24 * HOUR), Some(0));
        assert_eq!(keep(key, NOW), 30 * 24 * HOUR);
    }

    #[test]
    fn every_kind_of_error_has_a_name() {
        for (kind, name) in KINDS {
            assert_eq!((kind_name(kind), kind_of(name)), (name, kind));
        }
        assert_eq!(kind_name(ErrorKind::Timeout), "unavailable");
        assert_eq!(kind_of("of a later version"), ErrorKind::Unavailable);
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for text in ["", "{}", "[]", "{\"written\":-1,\"kept\":0}", "null"] {
            assert!(
                Entry::read(text.as_bytes(), at(NOW), None).is_none(),
                "{text}"
            );
        }
    }
}
