//! Which rejected tokens are replaced, when, and which of them the budget pays for.

use super::*;

/// Lets these APIs reject every token. Returns the minutes in which that caused a token request.
pub(super) fn requests_in(table: &mut Table, minutes: u32, apis: &[&'static str]) -> Vec<u32> {
    let mut requests = Vec::new();
    for minute in 0..minutes {
        for api in apis {
            let by = by(api);
            for _ in 0..2 {
                let sent = match table.next(Need::TokenOf(&by)) {
                    Got::Token(_) => table.state.tokens.find(Need::TokenOf(&by), table.now),
                    other => panic!("{other:?}"),
                };
                if table.reject_token(&sent.expect("a token"), &by) == Got::Waits {
                    requests.push(minute);
                    table.grant(DAY);
                }
            }
        }
        table.advance(MINUTE);
    }
    requests
}

#[test]
fn an_api_that_rejects_everything_gets_new_tokens_less_and_less_often() {
    let requests = requests_in(&mut Table::with_token(DAY), 16 * 60, &["api"]);
    assert_eq!(requests, [0, 1, 3, 7, 15, 31, 63, 127, 255, 435, 615, 795]);
}

#[test]
fn another_api_that_accepts_the_tokens_does_not_change_the_schedule() {
    let mut table = Table::with_token(DAY);
    let first = table.state.tokens.current().expect("a token").token.clone();
    table.accept("healthy", &first);
    let requests = requests_in(&mut table, 16 * 60, &["api"]);
    assert_eq!(requests, [0, 1, 3, 7, 15, 31, 63, 127, 255, 435, 615, 795]);
}

#[test]
fn the_schedule_of_a_key_starts_over_once_a_replacement_was_accepted_for_long_enough() {
    let key = |name: &str| {
        let header = http::HeaderName::from_static("sc_apikey");
        Token::api_key(header, name.to_owned()).expect("a key")
    };
    for (is_accepted, quiet, expected) in [
        (true, 16 * MINUTE, Got::Waits),
        (true, 15 * MINUTE, Got::Fails(ErrorKind::Unavailable, 2 * MINUTE)),
        (false, 16 * MINUTE, Got::Fails(ErrorKind::Unavailable, 2 * MINUTE)),
    ] {
        let mut table = Table::new();
        table.next(Need::Token);
        table.finish(Ok(key("key-1")));
        table.reject("api");
        table.finish(Ok(key("key-2")));
        if is_accepted {
            let current = table.state.tokens.current().expect("a key").token.clone();
            table.accept("api", &current);
        }
        // The first wait is a minute, and the longest 15 minutes.
        table.advance(quiet);
        assert_eq!(table.reject("api"), Got::Waits);
        table.finish(Ok(key("key-3")));
        table.advance(SECOND);
        let got = table.reject("api");
        match expected {
            Got::Waits => assert_eq!(got, Got::Fails(ErrorKind::Unavailable, 59 * SECOND)),
            _ => assert_eq!(got, Got::Fails(ErrorKind::Unavailable, 119 * SECOND)),
        }
    }
}

#[test]
fn a_refresh_because_of_age_starts_the_schedules_over() {
    let mut table = Table::with_token(DAY);
    for _ in 0..3 {
        assert_eq!(table.reject("api"), Got::Waits);
        table.grant(DAY);
        table.advance(4 * MINUTE);
    }
    table.advance(20 * HOUR);
    table.next(Need::Refresh);
    table.grant(DAY);
    assert_eq!(table.reject("api"), is_token("token-5"), "the settling token");
    assert_eq!(table.reject("api"), Got::Waits);
    table.grant(DAY);
    assert_eq!(table.reject("api"), Got::Fails(ErrorKind::Unavailable, MINUTE));
}

#[test]
fn adopted_tokens_count_in_the_schedule_but_not_in_the_budget() {
    let mut table = Table::with_token(DAY);
    for (round, minutes) in [1, 2, 4, 8, 16, 32, 64, 128].into_iter().enumerate() {
        assert_eq!(table.reject("api"), Got::Waits);
        table.finish(Ok(token(&format!("adopted-{round}"), DAY).adopted()));
        assert_eq!(table.reject("api"), Got::Fails(ErrorKind::Unavailable, minutes * MINUTE));
        table.advance(minutes * MINUTE);
    }
    assert_eq!(table.state.token_requests, 1);
}

#[test]
fn a_late_rejection_of_an_old_token_costs_nothing() {
    let mut table = Table::with_token(DAY);
    let first = table.state.tokens.current().expect("a token").token.clone();
    table.reject("api");
    table.grant(DAY);
    for api in ["api", "another"] {
        assert_eq!(table.reject_token(&first, &by(api)), is_token("token-2"));
    }
    assert!(table.refresh.is_none());
    assert!(table.state.tokens.current().expect("a token").rejected_by.is_empty());
}

#[test]
fn getting_the_rejected_token_again_is_a_failure_only_for_the_api_that_rejected_it() {
    let mut table = Table::with_token(DAY);
    table.advance(2 * SECOND);
    table.reject("api");
    let outcome = table.finish(Ok(token("token-1", DAY)));
    let Outcome::RejectedAgain(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!((table.current(), error.retry_after()), ("token-1".to_owned(), Some(MINUTE)));
    assert_eq!(table.reject("api"), Got::Fails(ErrorKind::Unavailable, MINUTE));
    assert_eq!(table.next(Need::Token), is_token("token-1"));
    let error = table.with_input(|state, input| state.last_error(input)).expect("it failed");
    assert!(error.cause().contains("returned the rejected token again"), "{error:?}");
    // The next success clears that.
    table.advance(MINUTE);
    table.reject("api");
    table.grant(DAY);
    assert!(table.with_input(|state, input| state.last_error(input)).is_none());
}

#[test]
fn only_the_replacement_of_a_usable_token_counts() {
    // The rejected token has expired, so any caller would have needed a new one.
    let mut table = Table::with_token(DAY);
    table.advance(DAY);
    assert_eq!(table.reject("api"), Got::Waits);
    table.grant(DAY);
    assert_eq!(table.reject("api"), Got::Waits, "it is the first one");
    table.grant(DAY);
    assert_eq!(table.reject("api"), Got::Fails(ErrorKind::Unavailable, MINUTE));
    // A caller that needs a token for a longer time rejects nothing.
    assert_eq!(table.next(Need::TokenFor(23 * HOUR + 58 * MINUTE)), is_token("token-3"));
    table.advance(2 * SECOND);
    assert_eq!(table.next(Need::TokenFor(DAY - MINUTE - SECOND)), Got::Waits);
    let token = table.grant(DAY);
    assert_eq!(table.reject_token(&token, &by("api")), Got::Waits, "the schedule starts over");
}

/// Returns what happens to a token that the refresh brings.
pub(super) fn arrival(table: &mut Table, token: Token) -> Arrival {
    let refresh = table.refresh.clone().expect("a refresh");
    let token = token.with_validity(&table.policy, refresh.started);
    table.with_input(|state, input| state.inspect(&refresh, &token, refresh.started, input))
}

#[test]
fn a_token_request_is_repeated_for_an_identical_token_only_within_two_seconds_of_its_arrival() {
    for (after, adopted, is_identical) in [
        (Duration::ZERO, false, true),
        (2 * SECOND - Duration::from_nanos(1), false, true),
        (2 * SECOND, false, false),
        (Duration::ZERO, true, false),
    ] {
        let mut table = Table::new();
        table.next(Need::Token);
        // The first token request takes a while. The issuer granted the token at its end.
        table.advance(9 * SECOND);
        table.grant(DAY);
        table.advance(after);
        table.reject("api");
        // So does the second one.
        table.advance(9 * SECOND);
        let again = token("token-1", DAY);
        let again = if adopted { again.adopted() } else { again };
        let arrival_again = arrival(&mut table, again);
        assert_eq!(matches!(arrival_again, Arrival::Identical), is_identical, "{after:?}");
        assert!(matches!(arrival(&mut table, token("other", DAY)), Arrival::Taken));
    }
    // A refresh because of age may return the same token.
    let mut table = Table::stale();
    table.next(Need::Refresh);
    assert!(matches!(arrival(&mut table, token("token-1", DAY)), Arrival::Taken));
}

#[test]
fn an_api_that_rejects_each_replacement_does_not_end_the_settling_although_it_accepts_some_requests()
 {
    let mut table = Table::with_token(DAY);
    let accept_all = |table: &mut Table, apis: &[&'static str]| {
        let newest = table.state.tokens.newest().cloned().expect("a token");
        for api in apis {
            table.accept(api, &newest);
        }
    };
    accept_all(&mut table, &["healthy", "mixed"]);
    for _ in 0..2 {
        let newest = table.state.tokens.newest().cloned().expect("a token");
        assert_eq!(table.reject_token(&newest, &by("mixed")), Got::Waits);
        table.grant(DAY);
        accept_all(&mut table, &["mixed"]);
        table.advance(MINUTE);
    }
    let current = table.current();
    let newest = table.state.tokens.newest().cloned().expect("a token");
    table.advance(HOUR);
    table.next(Need::Look);
    assert_eq!(table.reject_token(&newest, &by("mixed")), Got::Waits);
    table.grant(DAY);
    accept_all(&mut table, &["mixed"]);
    assert_eq!(table.next(Need::Token), Got::Token(text(&newest)), "after {current}");
}

#[test]
fn a_token_that_has_expired_on_arrival_is_worth_another_attempt() {
    let mut table = Table::new();
    table.next(Need::Token);
    table.advance(9 * SECOND);
    let Arrival::Expired(error) = arrival(&mut table, token("short", 9 * SECOND)) else {
        panic!("it is taken")
    };
    assert!(error.is_transient());
    // With a usable token it is not.
    let mut table = Table::stale();
    table.next(Need::Refresh);
    table.advance(9 * SECOND);
    assert!(matches!(arrival(&mut table, token("short", 9 * SECOND)), Arrival::Taken));
}

#[test]
fn an_api_that_accepted_a_token_once_and_then_rejects_everything_is_limited_like_any_other() {
    // Refreshed because of age every 12 minutes.
    let mut table = Table::with_token(15 * MINUTE);
    let mut requests = 0;
    let first = table.state.tokens.current().expect("a token").token.clone();
    for api in ["a", "b", "c", "d", "e", "f", "healthy"] {
        table.accept(api, &first);
    }
    for _ in 0..4 * 60 {
        if let Got::Token(_) = table.next(Need::Token) {
            let current = table.state.tokens.current().expect("a token").token.clone();
            table.accept("healthy", &current);
        }
        if table.refresh.is_some() {
            table.grant(15 * MINUTE);
        }
        for api in ["a", "b", "c", "d", "e", "f"] {
            let by = by(api);
            for _ in 0..2 {
                let sent = table.state.tokens.find(Need::TokenOf(&by), table.now);
                if table.reject_token(&sent.expect("a token"), &by) == Got::Waits {
                    requests += 1;
                    table.grant(15 * MINUTE);
                }
            }
        }
        table.advance(MINUTE);
    }
    // One free replacement each, the budget of six, and one an hour.
    assert!(requests <= 6 + 6 + 4, "{requests}");
}

#[test]
fn the_source_learns_that_a_token_was_rejected() {
    let mut table = Table::with_token(DAY);
    table.advance(20 * HOUR);
    table.next(Need::Refresh);
    let refresh = table.refresh.clone().expect("a refresh");
    let is_rejected = |table: &mut Table| {
        let request = table.state.begin_request(&refresh, table.now);
        request.map(|request| request.replaces_rejected)
    };
    assert_eq!(is_rejected(&mut table), Some(false));
    table.reject("api");
    assert_eq!(is_rejected(&mut table), Some(true));
    // A refresh that was given up sends nothing.
    table.lose(&refresh, true);
    assert_eq!(is_rejected(&mut table), None);
    assert_eq!(table.state.token_requests, 3);
}

#[test]
fn a_replacement_that_ended_with_its_runtime_counts_too() {
    let mut table = Table::with_token(DAY);
    let mut started = 0;
    for _ in 0..600 {
        table.reject("api");
        if let Some(refresh) = table.refresh.take() {
            started += 1;
            // The caller gave up before.
            table.lose(&refresh, false);
        }
        table.advance(SECOND);
    }
    // At 0 s, 1 s, 61 s, 181 s and 421 s. Each but the first used up a part of the budget.
    assert_eq!(started, 5);
    for api in ["b", "c"] {
        table.advance(MINUTE);
        assert_eq!((table.reject(api), table.refresh.is_some()), (Got::Waits, true));
        let refresh = table.refresh.take().expect("a refresh");
        table.lose(&refresh, false);
    }
    table.advance(MINUTE);
    let expected = HOUR + SECOND - 13 * MINUTE;
    assert_eq!(table.reject("d"), Got::Fails(ErrorKind::Unavailable, expected));
}
