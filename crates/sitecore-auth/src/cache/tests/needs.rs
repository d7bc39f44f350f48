//! What callers get, by the age of the token and by what is in flight.

use super::*;

#[test]
fn a_token_is_fresh_then_stale_then_expired_at_exactly_its_boundaries() {
    let millisecond = Duration::from_millis(1);
    // 24 h: stale from 0.8, and unusable from a minute before the end.
    let (stale_at, unusable_at) = (DAY.mul_f64(0.8), DAY - MINUTE);
    for (age, starts_refresh, got) in [
        (Duration::ZERO, false, is_token("token-1")),
        (stale_at - millisecond, false, is_token("token-1")),
        (stale_at, true, is_token("token-1")),
        (unusable_at - millisecond, true, is_token("token-1")),
        (unusable_at, true, Got::Waits),
        (unusable_at + millisecond, true, Got::Waits),
    ] {
        let mut table = Table::with_token(DAY);
        table.advance(age);
        assert_eq!(
            (table.next(Need::Token), table.refresh.is_some()),
            (got, starts_refresh),
            "{age:?}"
        );
        let look_at = table.state.view(&table.policy).expect("a token").look_at;
        assert!(starts_refresh || !table.now.has_reached(look_at), "{age:?}");
    }
}

#[test]
fn either_clock_ends_a_lifetime() {
    let mut table = Table::with_token(DAY);
    table.suspend(DAY);
    assert_eq!(table.next(Need::Token), Got::Waits);
    let mut table = Table::with_token(DAY);
    table.now = Moment::new(table.now.monotonic() + DAY, table.now.wall() - 9 * DAY);
    assert_eq!(table.next(Need::Token), Got::Waits);
}

#[test]
fn a_lifetime_counts_from_before_the_token_request() {
    let mut table = Table::new();
    table.next(Need::Token);
    table.advance(9 * SECOND);
    table.grant(100 * SECOND);
    table.advance(90 * SECOND - 9 * SECOND);
    assert_eq!(table.next(Need::Token), Got::Waits);
}

#[test]
fn one_refresh_serves_all_callers_and_they_share_its_failure() {
    let mut table = Table::new();
    assert_eq!(table.next(Need::Token), Got::Waits);
    let refresh = table.refresh.take();
    for need in [Need::Token, Need::TokenFor(HOUR)] {
        assert_eq!((table.next(need), table.refresh.is_some()), (Got::Waits, false));
    }
    table.refresh = refresh;
    let Outcome::Failed(error) = table.fail(ErrorKind::Malformed) else { panic!("no failure") };
    assert_eq!(error.retry_after(), Some(SECOND));
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::Malformed, SECOND));
}

#[test]
fn a_stale_token_is_returned_and_refreshed_once() {
    let mut table = Table::stale();
    for _ in 0..3 {
        assert_eq!(table.next(Need::Token), is_token("token-1"));
    }
    assert_eq!(table.refresh.as_ref().map(|refresh| refresh.number), Some(2));
}

#[test]
fn a_look_starts_nothing() {
    let mut table = Table::new();
    assert_eq!((table.next(Need::Look), table.refresh.is_none()), (Got::Nothing, true));
    let mut table = Table::stale();
    assert_eq!((table.next(Need::Look), table.refresh.is_none()), (is_token("token-1"), true));
    assert_eq!(
        (table.next(Need::TokenOf(&by("api"))), table.refresh.is_none()),
        (is_token("token-1"), true)
    );
}

#[test]
fn a_refresh_is_started_in_the_background_even_without_a_usable_token() {
    let mut table = Table::new();
    assert_eq!((table.next(Need::Refresh), table.refresh.is_some()), (Got::Nothing, true));
    let mut table = Table::with_token(DAY);
    table.suspend(2 * DAY);
    assert_eq!((table.next(Need::Refresh), table.refresh.is_some()), (Got::Nothing, true));
}

#[test]
fn a_lost_refresh_gives_way_to_another() {
    let mut table = Table::new();
    table.next(Need::Token);
    let mut lost = table.refresh.take().expect("a refresh");
    // However often, as long as a caller waits.
    for _ in 0..3 {
        table.lose(&lost, true);
        assert_eq!((table.next(Need::Token), table.refresh.is_some()), (Got::Waits, true));
        lost = table.refresh.take().expect("another refresh");
    }
    table.lose(&lost, true);
    table.next(Need::Token);
    // Its failure no longer counts, but a token always does.
    let error = Error::new(ErrorKind::Refused, "late");
    assert!(table.finish_refresh(&lost, Err(error)).is_look_again());
    assert!(!table.finish_refresh(&lost, Ok(token("late", DAY))).is_look_again());
    assert_eq!(table.next(Need::Token), is_token("late"));
    assert!(table.with_input(|state, input| state.is_refreshing(input)), "the other one goes on");
}

#[test]
fn refreshes_that_end_with_their_runtimes_do_not_follow_each_other_at_once() {
    let mut table = Table::stale();
    // A program that builds a runtime for each call loses each refresh.
    let mut started = 0;
    for _ in 0..3_600 {
        assert_eq!(table.next(Need::Refresh), is_token("token-1"));
        if let Some(refresh) = table.refresh.take() {
            started += 1;
            table.lose(&refresh, false);
        }
        table.advance(SECOND);
    }
    // At 0 s, 1 s, 31 s, 91 s, 211 s, 451 s, and then every 5 min.
    assert_eq!(started, 16);
    let error = table.with_input(|state, input| state.last_error(input)).expect("a failure");
    assert!(error.cause().contains("runtime"), "{error}");
    // A token ends it, and then a loss is the first one again.
    table.advance(300 * SECOND);
    table.next(Need::Refresh);
    table.grant(DAY);
    table.advance(20 * HOUR);
    for _ in 0..2 {
        assert_eq!(table.next(Need::Refresh), is_token("token-2"));
        let refresh = table.refresh.take().expect("a refresh");
        table.lose(&refresh, false);
    }
    assert_eq!((table.next(Need::Refresh), table.refresh.is_some()), (is_token("token-2"), false));
}

#[test]
fn a_caller_without_a_token_starts_a_refresh_however_many_were_lost() {
    let mut table = Table::new();
    for _ in 0..5 {
        assert_eq!((table.next(Need::Token), table.refresh.is_some()), (Got::Waits, true));
        let refresh = table.refresh.take().expect("a refresh");
        // The caller gave up, and then its runtime ended.
        table.lose(&refresh, false);
    }
}

#[test]
fn the_time_limit_counts_from_the_call_and_its_end_is_a_failure() {
    let mut table = Table::new();
    table.next(Need::Token);
    let refresh = table.refresh.take().expect("a refresh");
    table.advance(30 * SECOND - Duration::from_nanos(1));
    assert_eq!((table.next(Need::Token), table.refresh.is_some()), (Got::Waits, false));
    table.advance(Duration::from_nanos(1));
    let outcome = table.with_input(|state, input| state.time_out(refresh.number, input));
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::Unavailable, SECOND));
    // The token that arrives late is used, and ends the cooldown.
    table.finish_refresh(&refresh, Ok(token("late", DAY)));
    assert_eq!(table.next(Need::Token), is_token("late"));
    assert!(table.with_input(|state, input| state.last_error(input)).is_none());
}

#[test]
fn a_process_that_stood_still_has_no_cooldown() {
    for (by, is_late) in [(31 * SECOND, false), (31 * SECOND + Duration::from_nanos(1), true)] {
        for pass in [Table::advance, Table::suspend] {
            let mut table = Table::new();
            table.next(Need::Token);
            pass(&mut table, by);
            let outcome = table.fail(ErrorKind::Unavailable);
            assert_eq!(matches!(outcome, Outcome::StoodStill), is_late, "{by:?}: {outcome:?}");
            assert_eq!(table.next(Need::Token) == Got::Waits, is_late);
        }
    }
    // A wait that the server specified counts all the same.
    let mut table = Table::new();
    table.next(Need::Token);
    table.advance(HOUR);
    table.fail_for(20 * MINUTE);
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::RateLimited, 20 * MINUTE));
}

#[test]
fn a_process_that_stands_still_again_has_a_cooldown() {
    // A source that blocks its thread looks like that.
    let mut table = Table::new();
    for got in [Got::Waits, Got::Fails(ErrorKind::Unavailable, SECOND)] {
        table.next(Need::Token);
        table.advance(HOUR);
        table.fail(ErrorKind::Unavailable);
        assert_eq!(table.next(Need::Token), got);
    }
    // A refresh that was lost before does not count.
    let mut table = Table::new();
    table.next(Need::Refresh);
    let refresh = table.refresh.take().expect("a refresh");
    table.lose(&refresh, false);
    table.next(Need::Token);
    table.advance(HOUR);
    assert!(matches!(table.fail(ErrorKind::Unavailable), Outcome::StoodStill));
    // One that is frozen after each call makes a token request per cooldown.
    let mut table = Table::stale();
    let mut started = 0;
    for _ in 0..60 {
        table.next(Need::Refresh);
        started += u32::from(table.refresh.is_some());
        table.advance(MINUTE);
        if table.refresh.is_some() {
            table.fail(ErrorKind::Unavailable);
        }
    }
    assert_eq!(started, 13);
}

#[test]
fn a_refresh_that_no_caller_saw_time_out_gives_way_to_the_first_caller_in_need() {
    for pass in [Table::advance, Table::suspend] {
        // So much later, a waiting caller would have noticed. The process must have stood still.
        let mut table = Table::new();
        table.next(Need::Token);
        pass(&mut table, 32 * SECOND);
        let before = table.refresh.take().expect("a refresh").number;
        assert_eq!(table.next(Need::Token), Got::Waits);
        assert_eq!(table.refresh.as_ref().map(|refresh| refresh.number), Some(before + 1));
        assert!(table.with_input(|state, input| state.last_error(input)).is_none());
    }
    let mut table = Table::new();
    table.next(Need::Token);
    table.advance(30 * SECOND);
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::Unavailable, SECOND));
    // No caller waited for this one.
    let mut table = Table::new();
    table.next(Need::Refresh);
    table.advance(30 * SECOND);
    assert_eq!(table.next(Need::Token), Got::Waits);
}

#[test]
fn waiters_of_a_refresh_that_was_given_up_share_its_outcome() {
    let mut table = Table::new();
    table.next(Need::Token);
    let number = table.refresh.take().expect("a refresh").number;
    table.advance(30 * SECOND);
    // Another caller notices the time limit first.
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::Unavailable, SECOND));
    let outcome = table.with_input(|state, input| state.time_out(number, input));
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    // If another refresh is in flight by then, they join that one.
    table.advance(SECOND);
    table.next(Need::Token);
    assert!(table.with_input(|state, input| state.time_out(number, input)).is_look_again());
}

#[test]
fn after_a_suspend_a_stale_token_takes_no_lock_during_a_cooldown_or_a_deferral() {
    for is_deferral in [false, true] {
        let mut table = Table::with_token(DAY);
        table.suspend(20 * HOUR);
        table.next(Need::Refresh);
        let end = if is_deferral {
            table.finish(Ok(token("token-1", DAY)));
            (4 * HOUR - MINUTE) / 2
        } else {
            table.fail(ErrorKind::Unavailable);
            30 * SECOND
        };
        let look_at = table.state.view(&table.policy).expect("a token").look_at;
        assert!(!table.now.has_reached(look_at), "every call would lock the state");
        table.suspend(end);
        assert!(table.now.has_reached(look_at));
    }
}

#[test]
fn a_usable_token_that_is_returned_again_changes_nothing() {
    let mut table = Table::stale();
    table.next(Need::Refresh);
    let outcome = table.finish(Ok(token("token-1", DAY)));
    // Half of the 3 h 59 min that are left.
    let Outcome::Unchanged(retry_in) = outcome else { panic!("{outcome:?}") };
    assert_eq!(retry_in, (4 * HOUR - MINUTE) / 2);
    table.advance(retry_in - SECOND);
    assert_eq!((table.next(Need::Token), table.refresh.is_none()), (is_token("token-1"), true));
    table.advance(SECOND);
    assert_eq!((table.next(Need::Token), table.refresh.is_some()), (is_token("token-1"), true));
    table.advance(2 * HOUR);
    assert_eq!(table.next(Need::Look), Got::Nothing, "its expiry has not moved");
}

#[test]
fn an_expired_token_that_is_returned_again_is_used_for_five_minutes_at_a_time() {
    let mut table = Table::with_token(15 * MINUTE);
    for _ in 0..100 {
        table.advance(14 * MINUTE);
        assert_eq!(table.next(Need::Token), Got::Waits);
        assert!(!table.finish(Ok(token("token-1", 15 * MINUTE))).is_look_again());
        // A tenth of it is the margin.
        table.advance(270 * SECOND - Duration::from_nanos(1));
        assert_eq!(table.next(Need::Look), is_token("token-1"));
        table.advance(Duration::from_nanos(1));
        assert_eq!(table.next(Need::Look), Got::Nothing);
    }
}

#[test]
fn a_token_that_is_returned_again_is_not_used_beyond_the_response_or_its_exp() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let jwt = |exp: u64| {
        let part = |json: String| URL_SAFE_NO_PAD.encode(json);
        format!(
            "{}.{}.c2ln",
            part(r#"{"alg":"none"}"#.to_owned()),
            part(format!(r#"{{"exp":{exp}}}"#))
        )
    };
    let table = Table::new();
    let end = (table.now.wall() + HOUR).as_secs();
    for (text, again, at, usable) in [
        // The response gives it another 100 s.
        ("opaque".to_owned(), 100 * SECOND, HOUR, Some(90 * SECOND)),
        // The JWT ends in 60 s.
        (jwt(end), HOUR, HOUR - MINUTE, Some(54 * SECOND)),
        (jwt(end), HOUR, HOUR - 20 * MINUTE, None),
        (jwt(end), HOUR, HOUR, Some(Duration::ZERO)),
    ] {
        let mut table = Table::new();
        table.next(Need::Token);
        table.finish(Ok(token(&text, HOUR)));
        table.advance(at);
        let Some(usable) = usable else {
            assert_eq!(table.next(Need::Look), Got::Token(text), "it has not expired here");
            continue;
        };
        assert_eq!(table.next(Need::Token), Got::Waits);
        let outcome = table.finish(Ok(token(&text, again)));
        if usable.is_zero() {
            assert!(
                matches!(&outcome, Outcome::Failed(error) if error.kind() == ErrorKind::Malformed)
            );
        } else {
            let record = table.state.tokens.usable(table.now).expect("a token");
            assert_eq!(table.now.until(record.token.unusable_at()), usable, "{outcome:?}");
        }
    }
}

#[test]
fn a_token_keeps_the_expiry_that_another_cache_computed() {
    let mut inner = Table::with_token(DAY);
    let dated = inner.state.tokens.current().expect("a token").token.clone();
    inner.advance(23 * HOUR);
    let mut outer = Table { now: inner.now, ..Table::new() };
    outer.next(Need::Token);
    outer.finish(Ok(dated.clone()));
    outer.advance(HOUR - MINUTE);
    assert_eq!(outer.next(Need::Look), Got::Nothing);
    outer.advance(MINUTE);
    assert_eq!(outer.next(Need::Token), Got::Waits);
    // Nor does it get five more minutes.
    assert!(matches!(outer.finish(Ok(dated)), Outcome::Failed(_)));
}

#[test]
fn a_token_that_expires_earlier_does_not_replace_a_good_one() {
    let mut table = Table::stale();
    table.next(Need::Refresh);
    assert!(matches!(table.finish(Ok(token("short", 15 * MINUTE))), Outcome::Unchanged(_)));
    assert_eq!(table.current(), "token-1");
    // If it was rejected, any other token will do.
    table.advance(2 * HOUR);
    assert_eq!(table.reject("api"), Got::Waits);
    assert!(matches!(table.finish(Ok(token("short", 15 * MINUTE))), Outcome::Refreshed(_)));
    assert_eq!(table.current(), "short");
}

#[test]
fn a_longer_lasting_token_comes_from_a_refresh_and_rejects_nothing() {
    let mut table = Table::with_token(DAY);
    table.advance(15 * HOUR);
    assert_eq!(table.next(Need::TokenFor(8 * HOUR)), is_token("token-1"));
    assert_eq!(table.next(Need::TokenFor(9 * HOUR)), Got::Waits);
    table.grant(DAY);
    // The new token settles for the others.
    assert_eq!(table.next(Need::TokenFor(9 * HOUR)), is_token("token-2"));
    assert_eq!(table.next(Need::Token), is_token("token-1"));
    assert!(table.state.tokens.current().expect("a token").rejected_by.is_empty());
    // A key without expiry meets every need.
    let mut keys = Table::new();
    keys.next(Need::Token);
    let header = http::HeaderName::from_static("sc_apikey");
    keys.finish(Ok(Token::api_key(header, "key").expect("a key")));
    assert_eq!(keys.next(Need::TokenFor(Duration::MAX)), is_token("key"));
    // No refresh can bring a token that lasts this long.
    assert!(matches!(table.next(Need::TokenFor(DAY)), Got::Fails(ErrorKind::Config, _)));
    assert!(table.refresh.is_none());
}

#[test]
fn a_longer_lasting_token_is_not_requested_again_and_again() {
    let mut table = Table::stale();
    assert_eq!(table.next(Need::TokenFor(5 * HOUR)), Got::Waits);
    assert!(matches!(table.finish(Ok(token("token-1", DAY))), Outcome::Unchanged(_)));
    let wait = (4 * HOUR - MINUTE) / 2;
    assert_eq!(table.next(Need::TokenFor(5 * HOUR)), Got::Fails(ErrorKind::Unavailable, wait));
    // During a cooldown it fails, although other callers have a token.
    table.advance(wait);
    assert_eq!(table.next(Need::TokenFor(5 * HOUR)), Got::Waits);
    table.fail(ErrorKind::Unavailable);
    assert_eq!(
        table.next(Need::TokenFor(5 * HOUR)),
        Got::Fails(ErrorKind::Unavailable, 30 * SECOND)
    );
    assert_eq!(table.next(Need::Token), is_token("token-1"));
}
