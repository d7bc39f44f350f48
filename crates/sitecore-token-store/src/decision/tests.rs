//! The decisions of a process, as tables.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const OURS: u128 = 1;
const OTHERS: u128 = 2;

/// Returns a short name of the decision.
fn name(next: &Next) -> String {
    match next {
        Next::Look => "look".to_owned(),
        Next::Wait(Duration::MAX) => "wait".to_owned(),
        Next::Wait(limit) => format!("wait {}", limit.as_secs()),
        Next::Spread => "spread".to_owned(),
        Next::Acquire => "acquire".to_owned(),
        Next::Adopt(_) => "adopt".to_owned(),
        Next::Fail(error) => format!("fail {:?}", error.kind()),
        Next::Request => "request".to_owned(),
        Next::RequestAlone { watch } => format!("alone, watch: {watch}"),
    }
}

fn visit(context: FetchContext<'_>) -> Visit<'_> {
    Visit::new(context, OURS, false, 0.0)
}

fn cold() -> FetchContext<'static> {
    FetchContext::new(30 * SECOND)
}

/// This long after the call of the source.
fn after(waited: Duration) -> Now {
    Now { wall: NOW + waited, waited }
}

fn token(text: &str) -> Token {
    Token::bearer(text, HOUR).unwrap()
}

fn with_token() -> Entry {
    Entry::default().with_token(&token("stored"), NOW, NOW).unwrap()
}

/// An entry after this many failures, the last of which began at this time.
fn with_failures(count: u32, error: &Error, began_at: Duration, failed_at: Duration) -> Entry {
    // Each in another process, this one last.
    (0..count).rev().fold(Entry::default(), |entry, process| {
        entry.with_failure(error, began_at, failed_at, OTHERS + u128::from(process))
    })
}

#[test]
fn a_cold_process_adopts_a_token_or_acquires_the_lease() {
    for (entry, expected) in
        [(Some(Entry::default()), "acquire"), (Some(with_token()), "adopt"), (None, "spread")]
    {
        assert_eq!(name(&visit(cold()).look(entry.as_ref(), after(SECOND))), expected);
    }
    let stored = token("stored");
    let replacing = cold().with_replacing(&stored, false);
    assert_eq!(name(&visit(replacing).look(Some(&with_token()), after(SECOND))), "acquire");
}

#[test]
fn the_lease_holder_looks_once_more_before_its_token_request() {
    let mut visit = visit(cold());
    assert_eq!(name(&visit.after_acquiring(Some(true), after(SECOND))), "look");
    assert_eq!(name(&visit.look(Some(&Entry::default()), after(SECOND))), "request");
    assert_eq!(name(&visit.look(Some(&with_token()), after(SECOND))), "adopt");
}

#[test]
fn the_others_wait_for_the_holder_until_they_must_hurry() {
    for (waited, expected) in [(0, "wait"), (19, "wait"), (20, "alone, watch: true")] {
        let next = visit(cold()).after_acquiring(Some(false), after(waited * SECOND));
        assert_eq!(name(&next), expected, "{waited}");
    }
    // Those that must hurry do not all do so at the same time.
    let mut late = Visit::new(cold(), OURS, false, 1.0);
    assert_eq!(name(&late.after_acquiring(Some(false), after(22 * SECOND))), "wait");
    assert!(name(&late.after_acquiring(Some(false), after(23 * SECOND))).starts_with("alone"));
    // With a shorter time limit, a third of it is kept.
    let short = FetchContext::new(6 * SECOND);
    for (waited, expected) in [(3, "wait"), (4, "alone, watch: true")] {
        let next = visit(short).after_acquiring(Some(false), after(waited * SECOND));
        assert_eq!(name(&next), expected, "{waited}");
    }
}

#[test]
fn a_store_that_fails_once_is_asked_again() {
    // Nothing is known about a holder.
    let mut lone = visit(cold());
    assert_eq!(name(&lone.look(None, after(SECOND))), "spread");
    assert_eq!(name(&lone.look(None, after(SECOND))), "alone, watch: false");
    let mut blip = visit(cold());
    assert_eq!(name(&blip.after_acquiring(None, after(SECOND))), "spread");
    assert_eq!(name(&blip.look(Some(&Entry::default()), after(SECOND))), "acquire");
    assert_eq!(name(&blip.after_acquiring(None, after(SECOND))), "alone, watch: false");
    // Another process is known to make the token request.
    let mut waiting = visit(cold());
    waiting.after_acquiring(Some(false), after(SECOND));
    for second in 2..20 {
        assert_eq!(name(&waiting.look(None, after(second * SECOND))), "wait", "{second}");
    }
    assert_eq!(name(&waiting.look(None, after(20 * SECOND))), "spread");
    // It acquires the lease, but gives it up while it waits.
    let mut holder = visit(cold());
    holder.after_acquiring(Some(false), after(SECOND));
    assert_eq!(name(&holder.after_acquiring(Some(true), after(2 * SECOND))), "look");
    assert_eq!(name(&holder.look(None, after(2 * SECOND))), "wait");
    assert_eq!(name(&holder.look(Some(&Entry::default()), after(3 * SECOND))), "acquire");
}

#[test]
fn a_store_that_accepts_no_entry_grants_no_lease() {
    let mut own = Visit::new(cold(), OURS, true, 0.0);
    assert_eq!(name(&own.look(Some(&with_token()), after(SECOND))), "adopt");
    assert_eq!(name(&own.look(Some(&Entry::default()), after(SECOND))), "alone, watch: false");
    // Another process has noticed it.
    let noted = Entry::default().with_unwritable(NOW);
    assert_eq!(name(&visit(cold()).look(Some(&noted), after(SECOND))), "alone, watch: false");
    assert_eq!(name(&visit(cold()).look(Some(&noted), after(11 * SECOND))), "acquire");
}

#[test]
fn a_failure_is_passed_on_only_if_it_came_after_the_call_or_its_wait_is_too_long() {
    let unavailable = Error::new(ErrorKind::Unavailable, "down");
    let refused = Error::new(ErrorKind::Refused, "no such client");
    let before = NOW - SECOND;
    for (count, error, began_at, expected) in [
        // Other attempts follow.
        (1, &unavailable, NOW, "wait 1"),
        (2, &unavailable, NOW, "wait 2"),
        // The third in a row ends a refresh, as it does in one process.
        (3, &unavailable, NOW, "fail Unavailable"),
        (9, &unavailable, NOW, "fail Unavailable"),
        // A caller sees only failures of attempts that began after its call.
        (9, &unavailable, before, "wait 10"),
        // Repeating does not help.
        (1, &refused, NOW, "fail Refused"),
        (1, &refused, before, "fail Refused"),
        // The wait that the issuer specified does not fit, or does.
        (1, &unavailable.clone().with_retry_after(60 * SECOND), before, "fail Unavailable"),
        (1, &unavailable.clone().with_retry_after(9 * SECOND), before, "wait 9"),
        // An attempt must fit after the wait.
        (1, &unavailable.clone().with_retry_after(29 * SECOND), before, "wait 29"),
        (1, &unavailable.clone().with_retry_after(30 * SECOND), before, "fail Unavailable"),
    ] {
        let entry = with_failures(count, error, began_at, NOW);
        let next = visit(cold()).look(Some(&entry), after(Duration::ZERO));
        assert_eq!(name(&next), expected, "{count} {error}");
    }
    // The refresh began before this call of the source.
    let entry = with_failures(9, &unavailable, before, NOW);
    let next = visit(cold().after(2 * SECOND)).look(Some(&entry), after(Duration::ZERO));
    assert_eq!(name(&next), "fail Unavailable");
    // A backoff of our own that does not fit is cut short, so that the caller sees an attempt.
    let entry = with_failures(9, &unavailable, before, NOW);
    let mut short = visit(FetchContext::new(6 * SECOND));
    assert_eq!(name(&short.look(Some(&entry), after(Duration::ZERO))), "wait 10");
    assert_eq!(name(&short.look(Some(&entry), after(4 * SECOND))), "acquire");
    // The process that saved the failure tries again when its own cache says so.
    let mut own = Visit::new(cold(), OTHERS, false, 0.0);
    let entry = with_failures(9, &unavailable, NOW, NOW);
    assert_eq!(name(&own.look(Some(&entry), after(Duration::ZERO))), "acquire");
}

#[test]
fn after_a_failure_the_lease_is_given_up() {
    let mut visit = visit(cold());
    visit.after_acquiring(Some(true), after(SECOND));
    let unavailable = Error::new(ErrorKind::Unavailable, "down");
    let entry = with_failures(1, &unavailable, NOW, NOW);
    assert_eq!(name(&visit.look(Some(&entry), after(Duration::ZERO))), "wait 1");
    assert_eq!(name(&visit.look(Some(&Entry::default()), after(SECOND))), "acquire");
}

#[test]
fn a_usable_token_is_adopted_whatever_failed_after_it() {
    let refused = Error::new(ErrorKind::Refused, "no such client");
    let entry = with_token().with_failure(&refused, NOW, NOW, OTHERS);
    assert_eq!(name(&visit(cold()).look(Some(&entry), after(SECOND))), "adopt");
}
