//! The decisions of an entry, as tables.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3_600;
const OURS: u128 = 1;
const OTHERS: u128 = 2;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn token(text: &str, lifetime: u64) -> Token {
    Token::bearer(text, at(lifetime)).unwrap()
}

/// Writes the entry by one clock and reads it by another.
fn reread(mut entry: Entry, written: u64, now: u64, remaining: Option<Duration>) -> Entry {
    let (text, _) = entry.encode(at(written));
    Entry::decode(&text, at(now), remaining).unwrap()
}

fn saved(token: &Token) -> Entry {
    Entry::default().with_token(token, at(NOW), at(NOW)).unwrap()
}

fn saved_token(lifetime: u64) -> Entry {
    saved(&token("new", lifetime))
}

/// The token or failure that this process adopts.
fn adopt(
    entry: &Entry,
    replacing: Option<&Token>,
    now: Duration,
    reader: u128,
) -> Option<Result<Token, Error>> {
    match entry.token(replacing, now) {
        Some(token) => Some(Ok(token)),
        None => entry.failure(now, reader).map(|failure| Err(failure.error)),
    }
}

/// The age in seconds of the token that is adopted at this time.
fn adopted_age(entry: &Entry, now: u64) -> Option<u64> {
    let result = adopt(entry, None, at(now), OURS)?;
    Some(result.ok()?.age().as_secs())
}

#[test]
fn a_token_that_lasts_longer_than_tokens_are_used_is_shared() {
    let adopted = adopt(&saved_token(2_160 * HOUR), None, at(NOW + HOUR), OURS).unwrap().unwrap();
    assert_eq!((adopted.lifetime(), adopted.age()), (Some(at(720 * HOUR)), at(HOUR)));
}

#[test]
fn a_token_is_adopted_with_its_age_until_its_margin() {
    for (lifetime, elapsed, adopted) in [
        (HOUR, 0, Some(0)),
        (HOUR, 1_800, Some(1_800)),
        (HOUR, HOUR - 61, Some(HOUR - 61)),
        (HOUR, HOUR - 60, None),
        (HOUR, HOUR, None),
        // The margin of a short lifetime is a tenth of it.
        (100, 89, Some(89)),
        (100, 90, None),
        (30 * 24 * HOUR, 1, Some(1)),
        (31 * 24 * HOUR, 1, Some(1)),
    ] {
        let age = adopted_age(&saved_token(lifetime), NOW + elapsed);
        assert_eq!(age, adopted, "{lifetime} {elapsed}");
    }
    // Another host's clock may be ahead by at most the margin.
    for (lifetime, ahead) in [(HOUR, 60), (100, 10)] {
        assert_eq!(adopted_age(&saved_token(lifetime), NOW - ahead), Some(0));
        assert_eq!(adopted_age(&saved_token(lifetime), NOW - ahead - 1), None);
    }
}

#[test]
fn a_token_that_already_has_an_age_keeps_it() {
    let token = token("new", HOUR).with_age(at(1_000));
    let entry = saved(&token);
    assert_eq!(adopted_age(&entry, NOW), Some(1_000));
}

#[test]
fn of_two_ages_the_greater_counts_unless_a_clock_is_far_off() {
    let remaining = |seconds| Some(at(seconds));
    for (there, here, remaining, adopted) in [
        (NOW, NOW + 5, None, Some(5)),
        (NOW, NOW + 5, remaining(HOUR), Some(5)),
        (NOW, NOW + 5, remaining(HOUR - 600), Some(600)),
        // An old entry was saved again, with the time to live of a new one.
        (NOW, NOW + HOUR - 60, remaining(HOUR), None),
        // The reader's clock is behind.
        (NOW, NOW - 600, remaining(HOUR - 60), Some(60)),
        (NOW, NOW + 90 * HOUR, remaining(HOUR - 600), Some(600)),
        (NOW, NOW - 90 * HOUR, remaining(HOUR - 600), Some(600)),
        (NOW, NOW - 90 * HOUR, remaining(60), None),
        (NOW, NOW - 90 * HOUR, remaining(0), None),
        // More than the entry was to be kept is implausible, and ignored.
        (NOW, NOW + 600, remaining(HOUR + 1), Some(600)),
    ] {
        let entry = reread(saved_token(HOUR), there, here, remaining);
        assert_eq!(adopted_age(&entry, here), adopted, "{here} {remaining:?}");
    }
}

/// A JWT that was issued at `NOW` and expires an hour later.
const JWT: &str = "eyJhbGciOiJub25lIn0.eyJpYXQiOjE4MDAwMDAwMDAsImV4cCI6MTgwMDAwMzYwMH0.x";

#[test]
fn a_token_that_says_when_it_was_issued_shows_that_its_entry_is_old() {
    let remaining = Some(at(HOUR - 600));
    for (there, here, opaque, jwt) in [
        // Either the reader's clock is ahead, or an old entry was saved again.
        (NOW, NOW + 90 * HOUR, Some(600), None),
        (NOW, NOW - 90 * HOUR, Some(600), Some(600)),
        // The writer's clock was wrong.
        (HOUR, NOW, Some(600), Some(600)),
        (NOW + 90 * HOUR, NOW, Some(600), Some(600)),
    ] {
        for (text, expected) in [("opaque", opaque), (JWT, jwt)] {
            let entry = Entry::default().with_token(&token(text, HOUR), at(there), at(there));
            let entry = reread(entry.unwrap(), there, here, remaining);
            assert_eq!(adopted_age(&entry, here), expected, "{text} {there} {here}");
        }
    }
}

#[test]
fn other_processes_adopt_a_failure_until_its_retry_time() {
    let error = |kind| Error::new(kind, "sentinel");
    let unavailable = ErrorKind::Unavailable;
    for (error, before, wait, by_issuer) in [
        (error(unavailable), 0, 1, false),
        (error(unavailable), 3, 8, false),
        (error(unavailable), 80, 10, false),
        (error(ErrorKind::Refused), 0, 60, false),
        (error(ErrorKind::Refused), 9, 900, false),
        (error(unavailable).with_retry_after(at(77)), 9, 77, true),
        // A wait is limited to an hour.
        (error(ErrorKind::RateLimited).with_retry_after(at(7 * 24 * HOUR)), 0, HOUR, true),
    ] {
        let mut entry = Entry::default();
        for others in OTHERS..=OTHERS + before {
            entry = entry.with_failure(&error, at(NOW), at(NOW), others);
        }
        let entry = reread(entry, NOW, NOW, None);
        let adopted = adopt(&entry, None, at(NOW), OURS).unwrap().unwrap_err();
        assert_eq!(adopted.kind(), error.kind());
        let cause = adopted.to_string();
        assert!(cause.contains("sentinel"), "{cause}");
        // If the issuer specified no wait, each cache chooses its own.
        assert_eq!(adopted.retry_after(), by_issuer.then_some(at(wait)), "{before}");
        assert!(adopt(&entry, None, at(NOW + wait - 1), OURS).is_some());
        assert!(adopt(&entry, None, at(NOW + wait), OURS).is_none());
        // The process that saved the failure does not adopt it.
        assert!(adopt(&entry, None, at(NOW), OTHERS + before).is_none());
        // A failure from the future is ignored.
        assert!(adopt(&entry, None, at(NOW - 61), OURS).is_none());
        assert!(adopt(&entry, None, at(NOW - 60), OURS).is_some());
        let (_, keep) = { entry }.encode(at(NOW));
        assert!(keep >= at(HOUR / 6), "{keep:?}");
    }
    // Half of the wait has passed, by the store's clock.
    let error = error(unavailable).with_retry_after(at(100));
    let entry = Entry::default().with_failure(&error, at(NOW), at(NOW), OTHERS);
    let keep = at(100) + KEEP_FAILURES;
    let entry = reread(entry, NOW, NOW + 10, Some(keep - at(50)));
    let adopted = adopt(&entry, None, at(NOW + 10), OURS).unwrap();
    assert_eq!(adopted.unwrap_err().retry_after(), Some(at(50)));
    // An old entry that was saved again blocks no process, whatever time to live it got.
    let entry = Entry::default().with_failure(&error, at(NOW), at(NOW), OTHERS);
    let entry = reread(entry, NOW, NOW + 101, Some(keep));
    assert!(adopt(&entry, None, at(NOW + 101), OURS).is_none());
}

#[test]
fn a_process_that_keeps_failing_does_not_postpone_the_retry_of_the_others() {
    let error = Error::new(ErrorKind::Unavailable, "no route");
    let mut entry = Entry::default();
    for others in [8, 7, 6, OTHERS] {
        entry = entry.with_failure(&error, at(NOW), at(NOW), others);
    }
    // Others may retry after 8 s, however often the last one has failed by then.
    for second in 1..8 {
        entry = entry.with_failure(&error, at(NOW), at(NOW + second), OTHERS);
    }
    assert!(adopt(&entry, None, at(NOW + 7), OURS).is_some());
    assert!(adopt(&entry, None, at(NOW + 8), OURS).is_none());
}

#[test]
fn a_backoff_does_not_outlast_the_stored_token() {
    let refused = Error::new(ErrorKind::Refused, "once");
    let entry = saved_token(100).with_failure(&refused, at(NOW + 85), at(NOW + 85), OTHERS);
    assert_eq!(adopted_age(&entry, NOW + 85), Some(85));
    // The backoff would take 60 s, but the token is usable for only 5 s.
    assert!(adopt(&entry, None, at(NOW + 91), OURS).is_none());
    let old = token("new", 100);
    assert!(adopt(&entry, Some(&old), at(NOW + 89), OURS).is_some_and(|result| result.is_err()));
    let by_issuer = refused.with_retry_after(at(60));
    let entry = saved_token(100).with_failure(&by_issuer, at(NOW + 85), at(NOW + 85), OTHERS);
    assert!(adopt(&entry, None, at(NOW + 144), OURS).is_some_and(|result| result.is_err()));
}

#[test]
fn a_failure_keeps_the_token_and_a_new_token_removes_the_failure() {
    let error = Error::new(ErrorKind::Unavailable, "down");
    let entry = saved_token(HOUR).with_failure(&error, at(NOW), at(NOW), OTHERS);
    assert_eq!(adopted_age(&entry, NOW), Some(0));
    let adopted = adopt(&entry, Some(&token("new", HOUR)), at(NOW), OURS);
    assert!(adopted.unwrap().is_err());
    let newer = entry.with_token(&token("newer", HOUR), at(NOW + 1), at(NOW + 1)).unwrap();
    assert!(newer.failure.is_none());
}

#[test]
fn a_token_that_arrives_late_does_not_replace_a_newer_one() {
    let entry = saved_token(HOUR);
    let replaces =
        |token, requested_at, now| entry.with_token(&token, at(requested_at), at(now)).is_some();
    assert!(!replaces(token("late", HOUR), NOW - 1, NOW));
    assert!(!replaces(token("late", 2 * HOUR), NOW - 1, NOW + 60));
    assert!(replaces(token("newer", 60), NOW, NOW));
    // Unless the stored one has expired, or is too far in the future to be used.
    assert!(replaces(token("late", HOUR), NOW - 1, NOW + HOUR));
    assert!(replaces(token("late", HOUR), NOW - 90, NOW - 90));
}

#[test]
fn an_adopted_token_has_the_header_and_lifetime_of_the_saved_one() {
    let authorization = || Token::api_key(AUTHORIZATION, "KEY").unwrap();
    for token in [token("new", HOUR), authorization()] {
        let entry = saved(&token);
        let entry = reread(entry, NOW, NOW, None);
        let adopted = adopt(&entry, None, at(NOW), OURS).unwrap().unwrap();
        assert_eq!(adopted.header(), token.header());
        assert_eq!(adopted.lifetime(), token.lifetime());
    }
}

#[test]
fn an_entry_is_kept_until_its_token_expires() {
    let keep = |mut entry: Entry, now| entry.encode(at(now)).1.as_secs();
    assert_eq!(keep(saved_token(HOUR), NOW), HOUR);
    assert_eq!(keep(saved_token(HOUR), NOW + 600), HOUR - 600);
    assert_eq!(keep(saved_token(HOUR), NOW + 2 * HOUR), 1);
    let key = Token::api_key(HeaderName::from_static("sc_apikey"), "key").unwrap();
    let key = saved(&key);
    assert_eq!(adopted_age(&key, NOW + 300 * 24 * HOUR), Some(0));
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
fn an_invalid_entry_counts_as_missing() {
    for text in ["", "{}", "[]", "{\"written_at\":-1,\"keep\":0}", "null"] {
        assert!(Entry::decode(text.as_bytes(), at(NOW), None).is_none(), "{text}");
    }
}

#[test]
fn the_fleet_has_one_budget_for_rejected_tokens() {
    let mut entry = saved_token(HOUR);
    for _ in 0..BUDGET {
        assert_eq!(entry.budget_wait(at(NOW)), Duration::ZERO);
        entry = reread(entry.with_budget_spent(at(NOW)), NOW, NOW, None);
    }
    assert_eq!(entry.budget_wait(at(NOW)), BUDGET_REGAIN);
    assert_eq!(entry.budget_wait(at(NOW + 1_800)), BUDGET_REGAIN / 2);
    // New tokens and failures do not change it.
    let token = token("newer", HOUR);
    let entry = entry.with_token(&token, at(NOW + 1), at(NOW + 1)).unwrap();
    let error = Error::new(ErrorKind::Unavailable, "down");
    let entry = entry.with_failure(&error, at(NOW + 1), at(NOW + 1), OTHERS);
    assert_eq!(entry.budget_wait(at(NOW + 1_800)), BUDGET_REGAIN / 2);
    // One token request is regained each hour, and all of them after six.
    assert_eq!(entry.budget_wait(at(NOW + HOUR)), Duration::ZERO);
    let mut spent = entry.with_budget_spent(at(NOW + HOUR));
    assert!(!spent.budget_wait(at(NOW + HOUR)).is_zero());
    let (_, keep) = spent.encode(at(NOW + HOUR));
    assert_eq!(keep, at(6 * HOUR));
    // An entry whose times lie far in the future blocks no process.
    assert_eq!(spent_at(NOW + 1_000 * HOUR).budget_wait(at(NOW)), Duration::ZERO);
}

#[test]
fn hosts_whose_clocks_differ_share_the_budget() {
    // Two hosts spend in turn, one of which is ahead.
    for ahead in [1, 30] {
        let mut entry = Entry::default();
        let mut spent = 0;
        for turn in 0..100 {
            let now = NOW + turn % 2 * ahead;
            if entry.budget_wait(at(now)).is_zero() {
                entry = entry.with_budget_spent(at(now));
                spent += 1;
            }
        }
        assert!((6..=7).contains(&spent), "{spent}");
    }
    // Nor does a budget that is spent twice at once grow beyond its limit.
    let twice = spent_at(NOW).with_budget_spent(at(NOW)).with_budget_spent(at(NOW));
    assert_eq!(twice.budget_wait(at(NOW)), BUDGET_REGAIN);
    let given_back = twice.with_budget_given_back();
    assert!(given_back.budget_wait(at(NOW)).is_zero());
    // What else is stored stays.
    let with_token = saved_token(HOUR).with_budget_spent(at(NOW)).with_budget_given_back();
    assert_eq!(adopted_age(&with_token, NOW), Some(0));
}

#[test]
fn a_note_that_no_token_can_be_saved_lasts_for_a_while() {
    let entry = reread(Entry::default().with_unwritable(at(NOW)), NOW, NOW, None);
    assert!(entry.is_unwritable(at(NOW)) && entry.is_unwritable(at(NOW + 9)));
    assert!(!entry.is_unwritable(at(NOW + 10)));
    // A note from the future is ignored.
    assert!(!entry.is_unwritable(at(NOW - 1)));
}

fn spent_at(now: u64) -> Entry {
    (0..BUDGET).fold(Entry::default(), |entry, _| entry.with_budget_spent(at(now)))
}

#[test]
fn an_entry_without_a_token_takes_as_much_room_as_one_with_a_token() {
    let (empty, _) = Entry::default().encode(at(NOW));
    let (full, _) = saved(&token(&"x".repeat(3_000), HOUR)).encode(at(NOW));
    assert_eq!((empty.len(), full.len()), (MIN_BYTES, MIN_BYTES));
    let long = saved(&token(&"x".repeat(5_000), HOUR));
    let long = reread(long, NOW, NOW, None);
    assert_eq!(adopted_age(&long, NOW), Some(0));
}
