//! The budget for the token requests that rejected tokens cause.

use super::{
    rejected::{arrival, requests_in},
    *,
};

#[test]
fn the_budget_says_when_it_has_regained_a_token_request() {
    let mut table = Table::with_token(DAY);
    for api in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(table.reject(api), Got::Waits);
        table.grant(DAY);
    }
    assert_eq!(table.reject("g"), Got::Fails(ErrorKind::Unavailable, HOUR));
    table.advance(HOUR - SECOND);
    assert_eq!(table.reject("g"), Got::Fails(ErrorKind::Unavailable, SECOND));
    table.advance(SECOND);
    assert_eq!(table.reject("g"), Got::Waits);
    // Others have had a token all the time.
    assert!(matches!(table.next(Need::Token), Got::Token(_)));
}

#[test]
fn the_budget_does_not_stop_an_api_that_has_accepted_a_token_before() {
    let mut table = Table::with_token(DAY);
    for api in ["a", "b", "c", "d", "e", "f"] {
        table.reject(api);
        table.grant(DAY);
    }
    let token = table.state.tokens.current().expect("a token").token.clone();
    table.accept("healthy", &token);
    assert!(matches!(table.reject("g"), Got::Fails(..)));
    // Its first replacement is free, and the second one is not.
    assert_eq!(table.reject("healthy"), Got::Waits);
    table.grant(DAY);
    table.advance(MINUTE);
    let wait = HOUR - MINUTE;
    assert_eq!(table.reject("healthy"), Got::Fails(ErrorKind::Unavailable, wait));
}

#[test]
fn an_accepted_replacement_gives_the_token_request_back() {
    for accepts in [true, false] {
        let mut table = Table::with_token(DAY);
        assert_eq!(table.reject("api"), Got::Waits);
        let token = table.grant(DAY);
        if accepts {
            // It is given back only once.
            table.accept("api", &token);
            table.accept("api", &token);
        } else {
            // This API did not cause the token request.
            table.accept("another", &token);
        }
        let mut requests = 0;
        for api in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            requests += u32::from(table.reject(api) == Got::Waits);
            if table.refresh.is_some() {
                table.grant(DAY);
            }
            // The new token settles.
            table.advance(864 * SECOND);
            table.next(Need::Look);
        }
        // In nearly two hours, the budget has regained one.
        assert_eq!(requests, if accepts { 7 } else { 6 });
    }
}

#[test]
fn the_budget_pays_for_a_token_request_that_is_repeated() {
    let mut table = Table::with_token(DAY);
    assert_eq!(table.reject("a"), Got::Waits);
    assert!(matches!(arrival(&mut table, token("token-1", DAY)), Arrival::Identical));
    let now = table.now;
    table.state.rejections.count_repetition(now);
    table.grant(DAY);
    for api in ["b", "c", "d", "e"] {
        assert_eq!(table.reject(api), Got::Waits);
        table.grant(DAY);
    }
    assert_eq!(table.reject("f"), Got::Fails(ErrorKind::Unavailable, HOUR));
}

#[test]
fn the_budget_is_regained_within_six_hours_whatever_was_spent() {
    let mut table = Table::with_token(DAY);
    for _ in 0..1_000 {
        let now = table.now;
        table.state.rejections.count_repetition(now);
    }
    table.advance(HOUR);
    assert_eq!(table.reject("api"), Got::Waits);
    // A token that expired, and that the source returns again, costs nothing.
    let mut table = Table::with_token(5 * MINUTE);
    let same = table.state.tokens.current().expect("a token").token.clone();
    for _ in 0..100 {
        table.advance(5 * MINUTE);
        assert_eq!(table.reject_token(&same, &RejectedBy::Caller), Got::Waits);
        assert!(!table.finish(Ok(token("token-1", 5 * MINUTE))).is_look_again());
    }
    assert_eq!(table.reject("api"), Got::Waits);
}

#[test]
fn all_apis_together_have_one_budget() {
    const APIS: [&str; 20] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
        "s", "t",
    ];
    for count in [6, 20] {
        let requests = requests_in(&mut Table::with_token(DAY), 24 * 60, &APIS[..count]);
        let within = |hours: u32| requests.iter().filter(|minute| **minute < 60 * hours).count();
        assert_eq!(within(1), 6, "{requests:?}");
        for hours in 2..24 {
            assert!(within(hours) <= 5 + hours as usize, "{hours} h: {requests:?}");
        }
    }
}

#[test]
fn the_budget_does_not_pay_for_adopted_tokens() {
    let mut table = Table::with_token(DAY);
    for api in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        assert_eq!(table.reject(api), Got::Waits);
        table.finish(Ok(token(api, DAY).adopted()));
    }
}

#[test]
fn the_spent_budget_of_a_fleet_stops_only_the_api_that_needs_it() {
    let mut table = Table::with_token(DAY);
    let token = table.state.tokens.current().expect("a token").token.clone();
    table.accept("healthy", &token);
    assert_eq!(table.reject("broken"), Got::Waits);
    // The healthy API's caller joins that refresh.
    assert_eq!(table.reject("healthy"), Got::Waits);
    let spent = Error::new(ErrorKind::Unavailable, "spent").with_retry_after(40 * MINUTE);
    assert!(table.finish(Err(spent.with_budget_spent())).is_look_again());
    let wait = 40 * MINUTE;
    assert_eq!(table.reject("broken"), Got::Fails(ErrorKind::Unavailable, wait));
    assert!(table.refresh.is_none() && !table.state.has_cooldown());
    // Its first replacement is free.
    assert_eq!(table.reject("healthy"), Got::Waits);
    assert!(!table.state.rejections.uses_budget(table.refresh.as_ref().expect("one"), table.now));
    table.grant(DAY);
    table.advance(wait);
    assert_eq!(table.reject("broken"), Got::Waits);
}
