//! The decisions of an entry, as tables.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

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

fn fresh(token: &Token) -> Entry {
    Entry::default().granted(token, at(NOW), at(NOW)).unwrap()
}

fn granted(life: u64) -> Entry {
    fresh(&token("new", life))
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
        assert_eq!(age(&granted(life), NOW + elapsed), adopted, "{life} {elapsed}");
    }
    // Another host's clock may be a little ahead: by no more than what is left unused of a life.
    for (life, ahead) in [(HOUR, 60), (100, 10)] {
        assert_eq!(age(&granted(life), NOW - ahead), Some(0));
        assert_eq!(age(&granted(life), NOW - ahead - 1), None);
    }
}

#[test]
fn a_token_that_a_source_remembered_keeps_its_age() {
    let token = token("new", HOUR).with_age(at(1_000));
    let entry = fresh(&token);
    assert_eq!(age(&entry, NOW), Some(1_000));
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
    for (error, before, waits, named) in [
        (error(unavailable), 0, 1, false),
        (error(unavailable), 3, 8, false),
        (error(unavailable), 80, 30, false),
        (error(ErrorKind::Refused), 0, 60, false),
        (error(ErrorKind::Refused), 9, 900, false),
        (error(unavailable).with_retry_after(at(77)), 9, 77, true),
        // Nobody is believed who says that it takes longer than an hour.
        (error(ErrorKind::RateLimited).with_retry_after(at(7 * 24 * HOUR)), 0, HOUR, true),
    ] {
        let mut entry = Entry::default();
        for others in OTHERS..=OTHERS + before {
            entry = entry.failed(&error, at(NOW), others);
        }
        let entry = read(entry, NOW, NOW, None);
        let told = entry.answer(None, at(NOW), OURS).unwrap().unwrap_err();
        assert_eq!(told.kind(), error.kind());
        let cause = std::error::Error::source(&told).unwrap().to_string();
        assert!(cause.contains("sentinel"), "{cause}");
        // What nobody has named, each cache chooses for itself.
        assert_eq!(told.retry_after(), named.then_some(at(waits)), "{before}");
        assert!(entry.answer(None, at(NOW + waits - 1), OURS).is_some());
        assert!(entry.answer(None, at(NOW + waits), OURS).is_none());
        // Who had it knows it already.
        assert!(entry.answer(None, at(NOW), OTHERS + before).is_none());
        // From the future: not believed.
        assert!(entry.answer(None, at(NOW - 61), OURS).is_none());
        assert!(entry.answer(None, at(NOW - 60), OURS).is_some());
        let (_, keep) = entry.written(at(NOW));
        assert!(keep >= at(HOUR / 6), "{keep:?}");
    }
    // By the clock of the store: half of its wait is over.
    let wait = error(unavailable).with_retry_after(at(100));
    let entry = Entry::default().failed(&wait, at(NOW), OTHERS);
    let kept = at(100) + 10 * AHEAD;
    let entry = read(entry, NOW, NOW + HOUR, Some(kept - at(50)));
    let told = entry.answer(None, at(NOW + HOUR), OURS).unwrap();
    assert_eq!(told.unwrap_err().retry_after(), Some(at(50)));
}

#[test]
fn who_fails_alone_does_not_keep_the_others_from_trying() {
    let error = Error::new(ErrorKind::Unavailable, "no route");
    let mut entry = Entry::default();
    for others in [8, 7, 6, OTHERS] {
        entry = entry.failed(&error, at(NOW), others);
    }
    // After 8 s somebody else may, however often the same one has failed by then.
    for second in 1..8 {
        entry = entry.failed(&error, at(NOW + second), OTHERS);
    }
    assert!(entry.answer(None, at(NOW + 7), OURS).is_some());
    assert!(entry.answer(None, at(NOW + 8), OURS).is_none());
}

#[test]
fn nobody_waits_for_longer_than_there_is_a_token() {
    let refused = Error::new(ErrorKind::Refused, "once");
    let entry = granted(100).failed(&refused, at(NOW + 85), OTHERS);
    assert_eq!(age(&entry, NOW + 85), Some(85));
    // 60 s by itself, and 5 s until the token is of no use.
    assert!(entry.answer(None, at(NOW + 91), OURS).is_none());
    let old = token("new", 100);
    assert!(entry.answer(Some(&old), at(NOW + 89), OURS).is_some_and(|told| told.is_err()));
    let named = refused.with_retry_after(at(60));
    let entry = granted(100).failed(&named, at(NOW + 85), OTHERS);
    assert!(entry.answer(None, at(NOW + 144), OURS).is_some_and(|told| told.is_err()));
}

#[test]
fn a_failure_takes_no_token_away_and_a_grant_ends_it() {
    let error = Error::new(ErrorKind::Unavailable, "down");
    let entry = granted(HOUR).failed(&error, at(NOW), OTHERS);
    assert_eq!(age(&entry, NOW), Some(0));
    let refused = entry.answer(Some(&token("new", HOUR)), at(NOW), OURS);
    assert!(refused.unwrap().is_err());
    let newer = entry.granted(&token("newer", HOUR), at(NOW + 1), at(NOW + 1)).unwrap();
    assert!(newer.failure.is_none());
}

#[test]
fn a_grant_that_comes_late_does_not_take_the_place_of_a_newer_one() {
    let entry = granted(HOUR);
    let after = |token, asked, now| entry.granted(&token, at(asked), at(now)).is_some();
    assert!(!after(token("late", HOUR), NOW - 1, NOW));
    assert!(!after(token("late", 2 * HOUR), NOW - 1, NOW + 60));
    assert!(after(token("newer", 60), NOW, NOW));
    // What is over, or from a future that is not believed, is in nobody's way.
    assert!(after(token("late", HOUR), NOW - 1, NOW + HOUR));
    assert!(after(token("late", HOUR), NOW - 90, NOW - 90));
}

#[test]
fn a_header_comes_back_as_it_was() {
    let authorization = || Token::api_key(AUTHORIZATION, "KEY").unwrap();
    for token in [token("new", HOUR), authorization()] {
        let entry = fresh(&token);
        let entry = read(entry, NOW, NOW, None);
        let adopted = entry.answer(None, at(NOW), OURS).unwrap().unwrap();
        assert_eq!(adopted.header(), token.header());
        assert_eq!(adopted.lifetime(), token.lifetime());
    }
}

#[test]
fn an_entry_is_kept_for_as_long_as_it_is_of_use() {
    let keep = |entry: Entry, now| entry.written(at(now)).1.as_secs();
    assert_eq!(keep(granted(HOUR), NOW), HOUR);
    assert_eq!(keep(granted(HOUR), NOW + 600), HOUR - 600);
    assert_eq!(keep(granted(HOUR), NOW + 2 * HOUR), 1);
    let key = Token::api_key(HeaderName::from_static("sc_apikey"), "key").unwrap();
    let key = fresh(&key);
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
        assert!(Entry::read(text.as_bytes(), at(NOW), None).is_none(), "{text}");
    }
}
