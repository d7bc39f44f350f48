//! Which token an API or another caller gets.

use super::*;

#[test]
fn an_api_that_does_not_know_the_replacement_gets_the_token_that_it_accepted() {
    let mut table = Table::with_token(DAY);
    let first = table.state.tokens.current().expect("a token").token.clone();
    for api in ["a", "b", "c"] {
        table.accept(api, &first);
    }
    assert_eq!(table.reject("b"), Got::Waits);
    let second = table.grant(DAY);
    // This ends the settling.
    table.accept("b", &second);
    table.accept("c", &second);
    for _ in 0..2 {
        // This one learns the new key later.
        assert_eq!(table.reject_token(&second, &by("a")), Got::Token("token-1".to_owned()));
        assert_eq!(table.next(Need::TokenOf(&by("a"))), Got::Token("token-1".to_owned()));
        assert_eq!(table.next(Need::TokenOf(&by("b"))), Got::Token("token-2".to_owned()));
    }
    // It rejects both, or it accepted the replacement before it rejected that.
    for (token, api) in [(&first, "a"), (&second, "c"), (&second, "new")] {
        let mut table = table.clone();
        assert_eq!(table.reject_token(token, &by(api)), Got::Waits, "{api}");
    }
    // By then, it knows the new key.
    table.advance(15 * MINUTE);
    assert_eq!(table.next(Need::TokenOf(&by("a"))), Got::Token("token-2".to_owned()));
    assert_eq!(table.reject_token(&second, &by("a")), Got::Waits);
    // The program has rejected the previous token.
    let mut table = Table::with_token(DAY);
    let first = table.state.tokens.current().expect("a token").token.clone();
    table.accept("a", &first);
    assert_eq!(table.reject_token(&first, &RejectedBy::Caller), Got::Waits);
    let second = table.grant(DAY);
    assert_eq!(table.reject_token(&second, &by("a")), Got::Waits);
}

#[test]
fn a_rejected_token_does_not_come_back_with_a_later_refresh() {
    let mut table = Table::with_token(DAY);
    table.reject("api");
    table.grant(HOUR);
    table.advance(50 * MINUTE);
    table.next(Need::Refresh);
    assert!(matches!(table.finish(Ok(token("token-1", DAY))), Outcome::Unchanged(_)));
    assert_eq!(table.current(), "token-2");
    // Unless there is nothing else: an API may accept it.
    table.advance(HOUR);
    table.next(Need::Token);
    table.finish(Ok(token("token-1", DAY)));
    assert_eq!(table.next(Need::Token), is_token("token-1"));
}

#[test]
fn an_api_gets_a_token_that_it_has_not_rejected_if_there_is_one() {
    let mut table = Table::with_token(DAY);
    let first = table.state.tokens.current().expect("a token").token.clone();
    table.accept("healthy", &first);
    let api = by("api");
    let is_marked = |table: &Table| table.state.view(&table.policy).expect("a token").is_rejected;
    assert!(!is_marked(&table));
    assert_eq!(table.reject_token(&first, &api), Got::Waits);
    let second = table.grant(DAY);
    // The current token is marked, so that the API asks for another.
    assert!(is_marked(&table));
    assert_eq!(table.next(Need::TokenOf(&api)), is_token("token-2"));
    assert_eq!(table.next(Need::TokenOf(&by("healthy"))), is_token("token-1"));
    // It rejects that too, and then a late response rejects the first one again.
    table.advance(MINUTE);
    assert_eq!(table.reject_token(&second, &api), Got::Waits);
    table.fail(ErrorKind::Unavailable);
    assert!(matches!(table.reject_token(&first, &api), Got::Fails(..)));
    table.advance(SECOND);
    assert_eq!(table.reject_token(&second, &api), Got::Waits);
    table.grant(DAY);
    assert!(matches!(table.reject_token(&first, &api), Got::Token(_)));
    assert_eq!(table.next(Need::TokenOf(&api)), is_token("token-3"));
    // If there is none, it gets the newest one. The others keep the current one.
    let third = table.state.tokens.newest().cloned().expect("a token");
    table.reject_token(&third, &api);
    assert_eq!(table.next(Need::TokenOf(&api)), is_token("token-3"));
    assert_eq!(table.next(Need::TokenOf(&by("healthy"))), is_token("token-1"));
}

#[test]
fn a_replacement_that_was_too_new_is_sent_again_before_it_is_replaced() {
    let mut table = Table::with_token(DAY);
    let newest = |table: &Table| table.state.tokens.newest().cloned().expect("a token");
    let apis = ["one", "two"];
    // Each of them rejects two tokens in a row, and accepts the third.
    for api in apis {
        for _ in 0..2 {
            let token = newest(&table);
            assert_eq!(table.reject_token(&token, &by(api)), Got::Waits);
            table.grant(DAY);
            table.advance(4 * MINUTE);
        }
        let token = newest(&table);
        apis.iter().for_each(|api| table.accept(api, &token));
    }
    table.advance(HOUR);
    let old = newest(&table);
    assert_eq!(table.next(Need::Token), Got::Token(text(&old)));
    // The issuer has a new key, and the clocks of both APIs are behind: they reject the old token
    // because of its key, and the new one because it is from the future.
    assert_eq!(table.reject_token(&old, &by("one")), Got::Waits);
    let new = table.grant(DAY);
    assert_eq!(table.reject_token(&old, &by("two")), Got::Token(text(&new)));
    for api in apis {
        table.state.tokens.record_rejection(&new, &by(api));
    }
    table.advance(5 * MINUTE);
    for api in apis {
        assert_eq!(table.next(Need::TokenOf(&by(api))), Got::Token(text(&new)));
    }
}

#[test]
fn a_need_is_met_only_by_what_the_caller_asked_for() {
    let mut table = Table::with_token(DAY);
    let (now, api) = (table.now, by("api"));
    let current = table.state.tokens.current().expect("a token").token.clone();
    let other = token("other", DAY).with_validity(&table.policy, now);
    let need = Need::Other { rejected: &current, by: &api };
    assert!(need.is_met_by(&other, now) && !need.is_met_by(&current, now));
    assert!(Need::Token.is_met_by(&current, now));
    let usable = DAY - MINUTE;
    assert!(Need::TokenFor(usable).is_met_by(&current, now));
    assert!(!Need::TokenFor(usable + Duration::from_nanos(1)).is_met_by(&current, now));
    table.advance(usable);
    for need in [Need::Token, Need::TokenFor(Duration::ZERO), need] {
        assert!(!need.is_met_by(&current, table.now));
    }
}

#[test]
fn a_late_replacement_does_not_replace_a_newer_token() {
    let mut table = Table::with_token(DAY);
    table.reject("api");
    let late = table.refresh.take().expect("a refresh");
    table.advance(30 * SECOND);
    table.with_input(|state, input| state.time_out(late.number, input));
    table.advance(SECOND);
    assert_eq!(table.reject("api"), Got::Waits);
    table.finish(Ok(token("newer", DAY)));
    let outcome = table.finish_refresh(&late, Ok(token("late", DAY)));
    assert!(matches!(outcome, Outcome::Unchanged(_)), "{outcome:?}");
    // Nor does it defer the next refresh.
    let next = table.with_input(|state, input| state.next_attempt_in(input));
    assert_eq!(next, Some(DAY.mul_f64(0.8)));
    table.advance(HOUR);
    assert_eq!(table.next(Need::Token), is_token("newer"));
}

#[test]
fn an_api_that_accepts_its_token_again_withdraws_its_rejection() {
    let mut table = Table::with_token(DAY);
    let first = table.state.tokens.current().expect("a token").token.clone();
    table.reject("api");
    table.fail(ErrorKind::Unavailable);
    assert_eq!(table.reject("api"), Got::Fails(ErrorKind::Unavailable, SECOND));
    table.accept("api", &first);
    assert!(table.state.tokens.current().expect("a token").rejected_by.is_empty());
    let left = table.with_input(|state, input| state.last_error(input)).expect("a cooldown");
    assert_eq!(left.retry_after(), Some(30 * SECOND), "no caller is in need any more");
}

#[test]
fn an_earlier_rejected_token_is_not_a_replacement_either() {
    let mut table = Table::with_token(DAY);
    assert_eq!(table.reject("api"), Got::Waits);
    table.grant(DAY);
    table.advance(MINUTE);
    assert_eq!(table.reject("api"), Got::Waits);
    let outcome = table.finish(Ok(token("token-1", DAY)));
    assert!(matches!(outcome, Outcome::RejectedAgain(_)), "{outcome:?}");
    assert_eq!(table.current(), "token-2");
}

#[test]
fn a_token_may_be_requested_for_exactly_as_long_as_a_new_one_can_be_used() {
    let mut table = Table::with_token(DAY);
    table.advance(SECOND);
    assert_eq!(table.next(Need::TokenFor(DAY - MINUTE)), Got::Waits);
    table.grant(DAY);
    let longer = DAY - MINUTE + Duration::from_nanos(1);
    assert!(matches!(table.next(Need::TokenFor(longer)), Got::Fails(ErrorKind::Config, _)));
}

#[test]
fn a_rejected_token_that_the_cache_never_had_is_still_reported_as_rejected() {
    let mut table = Table::new();
    let old = token("old", DAY);
    assert_eq!(table.reject_token(&old, &RejectedBy::Caller), Got::Waits);
    let refresh = table.refresh.clone().expect("a refresh");
    let request = table.state.begin_request(&refresh, table.now).expect("a token request");
    assert!(request.replaces_rejected && !request.uses_budget);
}

#[test]
fn a_settling_token_that_the_program_rejects_does_not_replace_a_good_one() {
    let mut table = Table::with_token(DAY);
    table.advance(5 * HOUR);
    assert_eq!(table.next(Need::TokenFor(23 * HOUR)), Got::Waits);
    let settling = table.grant(DAY);
    assert_eq!(table.reject_token(&settling, &RejectedBy::Caller), is_token("token-1"));
    table.advance(HOUR);
    assert_eq!(table.next(Need::Token), is_token("token-1"));
    assert!(table.state.tokens.settling().is_none());
    // It is remembered.
    assert!(table.state.tokens.is_rejected(&settling));
}

#[test]
fn what_is_known_about_a_token_outlasts_its_expiry() {
    let mut table = Table::with_token(DAY);
    let first = table.state.tokens.current().expect("a token").token.clone();
    table.accept("a", &first);
    assert_eq!(table.reject_token(&first, &RejectedBy::Caller), Got::Waits);
    table.fail(ErrorKind::Unavailable);
    table.advance(DAY);
    // The source returns it once more, and it is used for a short time.
    assert_eq!(table.next(Need::Token), Got::Waits);
    table.finish(Ok(token("token-1", 2 * DAY)));
    let again = table.state.tokens.current().expect("a token").token.clone();
    assert!(again.is_same(&first) && table.state.tokens.is_rejected(&again));
    assert_eq!(table.reject_token(&again, &by("b")), Got::Waits);
    let second = table.grant(DAY);
    // The program has rejected the previous one, so it is not offered again.
    assert_eq!(table.reject_token(&second, &by("a")), Got::Waits);
}

#[test]
fn an_api_whose_key_has_changed_does_not_get_the_token_from_before() {
    let mut table = Table::with_token(DAY);
    let newest = |table: &Table| table.state.tokens.newest().cloned().expect("a token");
    let apis = ["one", "two"];
    // Both have rejected replacements before, so their rejections do not end the settling.
    for api in apis {
        for _ in 0..2 {
            let token = newest(&table);
            assert_eq!(table.reject_token(&token, &by(api)), Got::Waits);
            table.grant(DAY);
            table.advance(4 * MINUTE);
        }
        let token = newest(&table);
        apis.iter().for_each(|api| table.accept(api, &token));
    }
    table.advance(HOUR);
    let before = newest(&table);
    assert_eq!(table.next(Need::Token), Got::Token(text(&before)));
    // Another API rejects it, and its replacement settles.
    assert_eq!(table.reject_token(&before, &by("x")), Got::Waits);
    let settled = table.grant(DAY);
    table.advance(15 * MINUTE);
    assert_eq!(table.next(Need::Token), Got::Token(text(&settled)));
    // The key changes. The next token is too new for both APIs at first.
    assert_eq!(table.reject_token(&settled, &by("one")), Got::Waits);
    let new = table.grant(DAY);
    assert_eq!(table.reject_token(&settled, &by("two")), Got::Token(text(&new)));
    for api in apis {
        table.state.tokens.record_rejection(&new, &by(api));
    }
    table.advance(5 * MINUTE);
    for api in apis {
        assert_eq!(table.next(Need::TokenOf(&by(api))), Got::Token(text(&new)));
    }
}
