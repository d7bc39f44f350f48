//! When a new token is put to use.

use super::*;

/// Returns a table with a stale token and a new one that was just granted, and both tokens.
fn refreshed(lifetime: Duration) -> (Table, Token, Token) {
    let mut table = Table::with_token(lifetime);
    let first = table.state.tokens.current().expect("a token").token.clone();
    table.accept("healthy", &first);
    table.advance(lifetime.mul_f64(0.8));
    assert_eq!(table.next(Need::Token), is_token("token-1"));
    let second = table.grant(lifetime);
    (table, first, second)
}

#[test]
fn a_refreshed_token_is_put_to_use_after_it_has_settled() {
    for (lifetime, settling) in
        [(DAY, 864 * SECOND), (15 * MINUTE, 9 * SECOND), (20 * SECOND, 2 * SECOND)]
    {
        let (mut table, ..) = refreshed(lifetime);
        assert_eq!(table.next(Need::Token), is_token("token-1"));
        let settled_at = table.now.after(settling);
        assert_eq!(table.state.view(&table.policy).map(|view| view.look_at), Some(settled_at));
        table.advance(settling - Duration::from_nanos(1));
        assert_eq!((table.next(Need::Token), table.refresh.is_none()), (is_token("token-1"), true));
        table.advance(Duration::from_nanos(1));
        assert_eq!(table.next(Need::Token), is_token("token-2"), "{lifetime:?}");
    }
}

#[test]
fn a_new_token_is_put_to_use_at_once_if_the_previous_one_is_not_good() {
    // The previous one expires.
    let (mut table, ..) = refreshed(DAY);
    table.suspend(5 * HOUR);
    assert_eq!(table.next(Need::Token), is_token("token-2"));
    // It had expired before.
    let mut table = Table::with_token(DAY);
    table.advance(DAY);
    table.next(Need::Token);
    table.grant(DAY);
    assert_eq!(table.next(Need::Token), is_token("token-2"));
    // It had been rejected before.
    let mut table = Table::stale();
    table.next(Need::Refresh);
    table.reject("api");
    table.grant(DAY);
    assert_eq!(table.next(Need::Token), is_token("token-2"));
}

#[test]
fn a_rejection_of_the_previous_token_puts_the_new_one_to_use_without_a_token_request() {
    for by in [by("healthy"), RejectedBy::Caller] {
        let (mut table, first, _) = refreshed(DAY);
        assert_eq!(table.reject_token(&first, &by), is_token("token-2"));
        assert_eq!((table.next(Need::Token), table.refresh.is_none()), (is_token("token-2"), true));
    }
}

#[test]
fn an_api_that_rejects_everything_does_not_end_the_settling_for_others() {
    let (mut table, first, second) = refreshed(DAY);
    // It gets the new token, and rejects that too. The others keep the previous one.
    assert_eq!(table.reject_token(&first, &by("strict")), is_token("token-2"));
    assert_eq!(table.next(Need::TokenOf(&by("strict"))), is_token("token-2"));
    assert_eq!(table.next(Need::Token), is_token("token-1"));
    assert_eq!(table.reject_token(&second, &by("strict")), Got::Waits);
    let third = table.grant(DAY);
    assert_eq!(table.next(Need::Token), is_token("token-1"));
    assert_eq!(table.next(Need::TokenOf(&by("healthy"))), is_token("token-1"));
    assert_eq!(
        table.reject_token(&third, &by("strict")),
        Got::Fails(ErrorKind::Unavailable, MINUTE)
    );
    assert_eq!(table.next(Need::TokenOf(&by("strict"))), is_token("token-3"));
    // Once it accepts a token, its rejections count.
    table.accept("strict", &third);
    assert_eq!(table.next(Need::Token), is_token("token-3"));
}

#[test]
fn an_adopted_token_that_is_older_than_the_settling_time_is_put_to_use_at_once() {
    for (age, name) in [(863 * SECOND, "token-1"), (864 * SECOND, "adopted")] {
        let mut table = Table::stale();
        table.next(Need::Refresh);
        table.finish(Ok(token("adopted", DAY).with_age(age).adopted()));
        assert_eq!(table.next(Need::Token), is_token(name), "{age:?}");
    }
}

#[test]
fn a_settling_token_that_is_returned_again_does_not_settle_again() {
    let (mut table, ..) = refreshed(DAY);
    table.advance(10 * MINUTE);
    assert_eq!(table.next(Need::TokenFor(23 * HOUR + 50 * MINUTE)), Got::Waits);
    assert!(matches!(table.finish(Ok(token("token-2", DAY))), Outcome::Unchanged(_)));
    table.advance(264 * SECOND);
    assert_eq!(table.next(Need::Token), is_token("token-2"));
}

#[test]
fn a_settling_token_is_not_replaced_by_one_that_expires_earlier() {
    let (mut table, ..) = refreshed(DAY);
    table.advance(10 * MINUTE);
    assert_eq!(table.next(Need::TokenFor(23 * HOUR + 50 * MINUTE)), Got::Waits);
    let shorter = table.finish(Ok(token("shorter", 12 * HOUR)));
    assert!(matches!(shorter, Outcome::Unchanged(_)), "{shorter:?}");
    table.advance(264 * SECOND);
    assert_eq!(table.next(Need::Token), is_token("token-2"));
}

#[test]
fn a_settled_token_that_expires_earlier_is_used_only_if_the_previous_one_is_still_rejected() {
    for (is_accepted_again, expected) in [(false, "token-2"), (true, "token-1")] {
        let mut table = Table::with_token(DAY);
        let first = table.state.tokens.current().expect("a token").token.clone();
        table.accept("healthy", &first);
        table.advance(20 * HOUR);
        assert_eq!(table.next(Need::Token), is_token("token-1"));
        assert_eq!(table.reject_token(&first, &by("strict")), Got::Waits);
        table.grant(HOUR);
        if is_accepted_again {
            table.accept("strict", &first);
        }
        assert_eq!(table.next(Need::Token), is_token("token-1"));
        table.advance(36 * SECOND);
        assert_eq!(table.next(Need::Token), is_token(expected));
    }
}

#[test]
fn a_token_that_expired_while_it_settled_is_not_returned() {
    let (mut table, ..) = refreshed(DAY);
    // By the wall clock both have expired.
    table.suspend(2 * DAY);
    assert_eq!(table.next(Need::Look), Got::Nothing);
    assert_eq!(table.next(Need::Token), Got::Waits);
    // The newer token is the current one now, so a source may return it again.
    assert!(matches!(table.finish(Ok(token("token-2", 2 * MINUTE))), Outcome::Refreshed(_)));
    let current = table.state.tokens.usable(table.now).expect("a token");
    assert_eq!(table.now.until(current.token.unusable_at()), 108 * SECOND);
}

#[test]
fn a_key_without_expiry_does_not_settle() {
    let key = |name: &str| {
        let header = http::HeaderName::from_static("sc_apikey");
        Token::api_key(header, name.to_owned()).expect("a key")
    };
    let mut table = Table::new();
    table.next(Need::Token);
    table.finish(Ok(key("key-1")));
    let current = table.state.tokens.current().expect("a key").token.clone();
    table.accept("healthy", &current);
    table.reject("strict");
    table.finish(Ok(key("key-2")));
    assert_eq!(table.current(), "key-2");
}
