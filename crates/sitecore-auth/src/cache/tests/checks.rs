//! When the source is asked for new credentials, and what its reply changes.

use super::*;

fn refused() -> Table {
    let mut table = Table::new();
    table.next(Need::Token);
    table.fail(ErrorKind::Refused);
    table
}

#[test]
fn credentials_are_checked_once_a_second_after_a_refusal_or_a_rate_limit_and_not_otherwise() {
    for (kind, is_checked) in [
        (ErrorKind::Refused, true),
        (ErrorKind::RateLimited, true),
        (ErrorKind::Malformed, false),
        (ErrorKind::Config, false),
        (ErrorKind::Unavailable, false),
    ] {
        let mut table = Table::new();
        table.next(Need::Token);
        let error = Error::new(kind, "table").with_retry_after(20 * SECOND);
        table.finish(Err(error));
        for _ in 0..10 {
            table.advance(SECOND - Duration::from_nanos(1));
            assert!(matches!(table.next(Need::Token), Got::Fails(..)));
            table.advance(Duration::from_nanos(1));
            assert_eq!(table.next(Need::Token) == Got::Waits, is_checked, "{kind:?}");
            assert_eq!(table.check.is_some(), is_checked);
            if is_checked {
                table.finish_check(Some(false));
            }
            // The cooldown and its error stay.
            assert!(matches!(table.next(Need::Token), Got::Fails(failed, _) if failed == kind));
        }
    }
}

#[test]
fn only_the_caller_that_starts_a_check_waits_for_it() {
    let mut table = refused();
    table.advance(SECOND);
    assert_eq!(table.next(Need::Token), Got::Waits);
    let check = table.check.take();
    for _ in 0..30 {
        assert!(matches!(table.next(Need::Token), Got::Fails(ErrorKind::Refused, _)));
        table.advance(SECOND / 10);
        assert!(table.check.is_none());
    }
    // A result that comes too late does not count.
    assert_eq!(table.next(Need::Token), Got::Waits);
    let second = table.check.take();
    let now = table.now;
    assert!(!table.state.begin_check(check.expect("a check"), now), "it was given up");
    assert!(table.state.begin_check(second.expect("a check"), now));
    table.check = check;
    table.finish_check(Some(true));
    assert!(matches!(table.next(Need::Token), Got::Fails(..)));
    table.check = second;
    table.finish_check(Some(true));
    assert_eq!((table.next(Need::Token), table.refresh.is_some()), (Got::Waits, true));
}

#[test]
fn new_credentials_end_even_a_cooldown_that_the_server_specified() {
    let mut table = Table::new();
    table.next(Need::Token);
    table.fail_for(HOUR);
    table.advance(SECOND);
    assert_eq!(table.next(Need::Token), Got::Waits);
    table.finish_check(Some(true));
    assert_eq!((table.next(Need::Token), table.refresh.is_some()), (Got::Waits, true));
    table.grant(DAY);
    assert_eq!(table.next(Need::Token), is_token("token-1"));
}

#[test]
fn new_credentials_are_noticed_in_the_background_too() {
    let mut table = Table::stale();
    table.next(Need::Refresh);
    table.fail(ErrorKind::Refused);
    table.advance(SECOND);
    assert_eq!((table.next(Need::Token), table.check.is_some()), (is_token("token-1"), true));
    table.finish_check(Some(true));
    assert_eq!((table.next(Need::Token), table.refresh.is_some()), (is_token("token-1"), true));
}

/// Returns the times between the checks, in seconds, if `end` ends each check.
fn intervals(mut table: Table, end: impl Fn(&mut Table)) -> Vec<u64> {
    let started = table.now;
    let mut last = started;
    let mut intervals = Vec::new();
    while intervals.len() < 9 {
        assert!(table.now.elapsed_since(started) < HOUR, "no more checks after {intervals:?}");
        table.next(Need::Token);
        if table.check.is_some() {
            intervals.push(table.now.elapsed_since(last).as_secs());
            last = table.now;
            end(&mut table);
        }
        if table.refresh.is_some() {
            table.fail(ErrorKind::Refused);
            last = table.now;
        }
        table.advance(SECOND);
    }
    intervals
}

#[test]
fn checks_come_less_often_after_a_failure_and_after_new_credentials_that_are_refused() {
    let mut table = refused();
    table.policy.cooldown_refused = crate::policy::Backoff::new(DAY, DAY);
    table.next(Need::Token);
    let failing = intervals(table, |table| table.finish_check(None));
    assert_eq!(failing, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let unchanged = intervals(refused(), |table| table.finish_check(Some(false)));
    assert_eq!(unchanged, [1; 9]);
    let new_each_time = intervals(refused(), |table| {
        table.finish_check(Some(true));
        assert_eq!(table.next(Need::Token), Got::Waits);
    });
    assert_eq!(new_each_time, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn a_check_that_never_ends_is_given_up_after_two_seconds() {
    let mut table = refused();
    table.advance(SECOND);
    assert_eq!(table.next(Need::Token), Got::Waits);
    let number = table.check.take().expect("a check");
    assert_eq!(table.with_input(|state, input| state.time_left(number, input)), 2 * SECOND);
    table.advance(2 * SECOND);
    assert!(table.with_input(|state, input| state.time_out(number, input)).is_look_again());
    assert_eq!(table.next(Need::Token), Got::Fails(ErrorKind::Refused, 57 * SECOND));
    // Even if its caller is gone, the next check starts.
    let mut table = refused();
    table.advance(SECOND);
    table.next(Need::Token);
    table.check = None;
    table.advance(3 * SECOND);
    assert_eq!((table.next(Need::Token), table.check.is_some()), (Got::Waits, true));
}

#[test]
fn background_checks_that_never_end_come_less_and_less_often() {
    let mut table = Table::stale();
    table.next(Need::Refresh);
    table.policy.cooldown_refused = crate::policy::Backoff::new(DAY, DAY);
    table.fail(ErrorKind::Refused);
    let started = table.now;
    let (mut last, mut intervals) = (started, Vec::new());
    while intervals.len() < 9 {
        assert!(table.now.elapsed_since(started) < HOUR, "no more checks after {intervals:?}");
        table.next(Need::Token);
        if table.check.take().is_some() {
            intervals.push(table.now.elapsed_since(last).as_secs());
            last = table.now;
        }
        table.advance(SECOND);
    }
    assert_eq!(intervals, [1, 3, 4, 6, 10, 18, 34, 62, 62]);
}
