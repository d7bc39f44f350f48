//! When the next refresh may start after one that failed.

use super::*;

/// Fails one refresh of each kind. Returns the cooldown after each, in seconds.
fn cooldowns(table: &mut Table, need: Need<'_>, kinds: &[ErrorKind]) -> Vec<u64> {
    let fail = |kind: &ErrorKind| {
        table.next(need);
        let outcome = table.fail(*kind);
        let Outcome::Failed(error) = outcome else { panic!("{outcome:?}") };
        let wait = error.retry_after().expect("a cooldown");
        table.advance(wait);
        wait.as_secs()
    };
    kinds.iter().map(fail).collect()
}

#[test]
fn a_cooldown_doubles_and_depends_on_the_need() {
    use ErrorKind::{Malformed, RateLimited, Refused, Unavailable};
    let mut table = Table::new();
    assert_eq!(cooldowns(&mut table, Need::Token, &[Malformed; 7]), [1, 2, 4, 8, 16, 30, 30]);
    let mut table = Table::stale();
    assert_eq!(
        cooldowns(&mut table, Need::Refresh, &[Unavailable; 6]),
        [30, 60, 120, 240, 300, 300]
    );
    let mut table = Table::new();
    assert_eq!(cooldowns(&mut table, Need::Token, &[Refused; 5]), [60, 120, 240, 300, 300]);
    let mut table = Table::stale();
    assert_eq!(cooldowns(&mut table, Need::Refresh, &[Refused; 6]), [60, 120, 240, 480, 900, 900]);
    // Another kind of failure does not start over.
    let mut table = Table::new();
    let alternating = [Refused, Unavailable, Refused, RateLimited, Refused];
    assert_eq!(cooldowns(&mut table, Need::Token, &alternating), [60, 2, 240, 8, 300]);
}

#[test]
fn a_success_starts_the_backoff_over() {
    let mut table = Table::new();
    cooldowns(&mut table, Need::Token, &[ErrorKind::Malformed; 5]);
    table.next(Need::Token);
    table.grant(DAY);
    table.advance(DAY);
    assert_eq!(cooldowns(&mut table, Need::Token, &[ErrorKind::Malformed; 2]), [1, 2]);
}

#[test]
fn callers_with_a_good_token_notice_no_cooldown() {
    let mut table = Table::stale();
    assert_eq!(table.next(Need::Token), is_token("token-1"));
    table.fail(ErrorKind::Unavailable);
    let end = table.now.after(30 * SECOND);
    assert_eq!(table.state.view(&table.policy).map(|view| view.look_at), Some(end));
    table.advance(30 * SECOND - Duration::from_nanos(1));
    assert_eq!((table.next(Need::Token), table.refresh.is_none()), (is_token("token-1"), true));
    table.advance(Duration::from_nanos(1));
    assert_eq!((table.next(Need::Token), table.refresh.is_some()), (is_token("token-1"), true));
}

#[test]
fn a_rejection_makes_the_cooldown_short() {
    // The first refresh fails before the rejection. The others are caused by it.
    let mut table = Table::stale();
    table.next(Need::TokenFor(5 * HOUR));
    table.fail(ErrorKind::Unavailable);
    assert_eq!(table.reject("api"), Got::Fails(ErrorKind::Unavailable, SECOND));
    table.advance(SECOND);
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(table.reject("api"), Got::Waits);
        table.fail(ErrorKind::Unavailable);
        let wait = seconds * SECOND;
        assert_eq!(table.reject("api"), Got::Fails(ErrorKind::Unavailable, wait));
        table.advance(wait);
    }
    // Others still have their token.
    assert_eq!(table.next(Need::Token), is_token("token-1"));
}

#[test]
fn a_cooldown_of_our_own_does_not_outlast_the_current_token() {
    let mut table = Table::stale();
    table.advance(4 * HOUR - MINUTE - 10 * SECOND);
    table.next(Need::Refresh);
    table.fail(ErrorKind::Refused);
    assert_eq!(table.with_input(|state, input| state.next_attempt_in(input)), Some(10 * SECOND));
    table.advance(10 * SECOND);
    assert_eq!(table.next(Need::Token), Got::Waits);
}

#[test]
fn a_wait_that_the_server_specified_is_never_shortened() {
    let mut table = Table::stale();
    table.advance(4 * HOUR - 2 * MINUTE);
    // No caller waits, the token expires, and the wall clock jumps.
    table.next(Need::Refresh);
    table.fail_for(HOUR);
    table.suspend(2 * HOUR);
    table.advance(HOUR - SECOND);
    table.next(Need::Token);
    table.finish_check(Some(false));
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::RateLimited, SECOND));
    table.advance(SECOND);
    assert_eq!((table.next(Need::Token), table.refresh.is_some()), (Got::Waits, true));
    // It is capped at an hour.
    table.fail_for(12 * HOUR);
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::RateLimited, HOUR));
}

#[test]
fn a_token_that_arrives_late_does_not_end_a_wait_that_the_server_specified_since() {
    let hour = Some(HOUR);
    // The monotonic clock stands still while the machine is suspended.
    for (pause, wait, fails) in
        [(SECOND, hour, true), (Duration::ZERO, hour, true), (SECOND, None, false)]
    {
        let mut table = Table::new();
        table.next(Need::Token);
        let late = table.refresh.take().expect("a refresh");
        table.lose(&late, true);
        table.advance(pause);
        table.next(Need::Token);
        match wait {
            Some(wait) => table.fail_for(wait),
            None => table.fail(ErrorKind::Unavailable),
        };
        table.finish_refresh(&late, Ok(token("late", 100 * SECOND)));
        assert_eq!(table.next(Need::Token), is_token("late"));
        table.advance(100 * SECOND);
        table.next(Need::Token);
        if table.check.is_some() {
            table.finish_check(Some(false));
        }
        let got = table.next(Need::Token);
        assert_eq!(matches!(got, Got::Fails(ErrorKind::RateLimited, _)), fails, "{got:?}");
    }
}

#[test]
fn the_first_caller_in_need_may_start_a_refresh_after_one_that_no_caller_waited_for() {
    let mut table = Table::stale();
    table.advance(4 * HOUR - MINUTE - SECOND);
    table.next(Need::Refresh);
    // The token expires, and then the refresh fails.
    table.advance(2 * SECOND);
    table.fail(ErrorKind::Unavailable);
    assert_eq!(table.next(Need::Refresh), Got::Nothing);
    assert!(table.refresh.is_none(), "a caller that does not wait is not in need");
    assert_eq!(table.next(Need::Token), Got::Waits);
    // That one has a caller, so its failure is shared.
    table.fail(ErrorKind::Unavailable);
    assert!(matches!(table.next(Need::Token), Got::Fails(..)));
}

#[test]
fn the_program_can_end_a_cooldown() {
    let mut table = Table::new();
    table.next(Need::Token);
    table.fail_for(HOUR);
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::RateLimited, HOUR));
    table.state.end_cooldown();
    // Until a refresh succeeds, the error stays.
    assert!(table.with_input(|state, input| state.last_error(input)).is_some());
    assert_eq!(table.next(Need::Token), Got::Waits);
    table.fail(ErrorKind::Unavailable);
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::Unavailable, 2 * SECOND));
}

#[test]
fn a_cooldown_that_was_ended_is_noticed_by_the_next_call() {
    let mut table = Table::stale();
    table.next(Need::Refresh);
    table.fail_for(HOUR);
    let look_at = |table: &Table| table.state.view(&table.policy).expect("a token").look_at;
    assert!(!table.now.has_reached(look_at(&table)));
    table.state.end_cooldown();
    // Calls that do not lock the state look at it again at once.
    assert!(table.now.has_reached(look_at(&table)));
    table.next(Need::Refresh);
    assert!(table.refresh.is_some());
}

#[test]
fn the_longer_of_our_own_backoff_and_the_servers_wait_counts() {
    for (wait, end) in [(10 * MINUTE, 10 * MINUTE), (SECOND, 30 * SECOND)] {
        let mut table = Table::stale();
        table.next(Need::Refresh);
        let error = Error::new(ErrorKind::Unavailable, "table").with_retry_after(wait);
        table.finish(Err(error));
        let look_at = table.state.view(&table.policy).expect("a token").look_at;
        // Until then, calls need not look at the state.
        table.advance(end - Duration::from_nanos(1));
        assert!(!table.now.has_reached(look_at), "{wait:?}");
        table.next(Need::Refresh);
        assert!(table.refresh.is_none());
        table.advance(Duration::from_nanos(1));
        assert!(table.now.has_reached(look_at), "{wait:?}");
        table.next(Need::Refresh);
        assert!(table.refresh.is_some());
    }
}
