//! The waits that the policy computes.

use proptest::prelude::*;

use super::*;

/// A realistic duration, or one of any size.
pub(crate) fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0_u64..100_000, 0_u32..1_000_000_000)
            .prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)),
        (0_u64..=1_000_000_000_000_000_000).prop_map(Duration::from_secs),
    ]
}

proptest! {
    #[test]
    fn waits_stay_within_their_bounds(failures in 0_u32..200, jitter in 0.0..1.0, wait in duration()) {
        let policy = RefreshPolicy::default();
        for (kind, in_need, first, max) in [
            (ErrorKind::Unavailable, false, 30, 300),
            (ErrorKind::Unavailable, true, 1, 30),
            (ErrorKind::Refused, false, 60, 900),
            (ErrorKind::Refused, true, 60, 300),
        ] {
            let own = policy.cooldown(kind, in_need, failures, jitter).as_secs_f64();
            prop_assert!(own >= f64::from(first) * 0.75 && own <= f64::from(max) * 1.25);
        }
        let requested = policy.retry_after_delay(wait, jitter);
        let hour = Duration::from_secs(3600);
        prop_assert!(requested >= wait.min(hour) && requested <= hour.mul_f64(1.1));
        let rejected = policy.rejection_delay(Some(Duration::from_secs(86_400)), failures);
        prop_assert!(rejected >= Duration::from_secs(60) && rejected <= 3 * hour);
    }
}

#[test]
fn jitter_covers_its_whole_range() {
    let policy = RefreshPolicy::default();
    let second = Duration::from_secs(1);
    let own = |jitter| policy.cooldown(ErrorKind::Refused, false, 1, jitter);
    assert_eq!((own(0.0), own(0.5), own(1.0)), (45 * second, 60 * second, 75 * second));
    assert_eq!(policy.retry_after_delay(100 * second, 1.0), 110 * second);
}

#[test]
fn a_token_settles_for_a_hundredth_of_its_lifetime_within_bounds() {
    let policy = RefreshPolicy::default();
    let seconds = Duration::from_secs_f64;
    for (lifetime, settling) in [
        (86_400.0, 864.0),
        // At most 15 min, and at least 3 s.
        (300_000.0, 900.0),
        (900.0, 9.0),
        (100.0, 3.0),
        // At most a tenth of the lifetime.
        (30.0, 3.0),
        (20.0, 2.0),
        (1.0, 0.1),
        (0.0, 0.0),
    ] {
        assert_eq!(policy.settling_time(Some(seconds(lifetime))), seconds(settling));
    }
    assert_eq!(policy.settling_time(None), Duration::ZERO);
}

#[test]
fn after_a_refresh_without_a_newer_token_the_next_one_waits_for_half_of_the_remaining_time() {
    let seconds = Duration::from_secs;
    for (usable, wait) in [(3600, 1800), (60, 30), (50, 30), (20, 20), (0, 0)] {
        assert_eq!(RefreshPolicy::deferral(seconds(usable)), seconds(wait));
    }
}

#[test]
fn a_refused_client_waits_for_five_minutes_at_most_while_callers_are_in_need() {
    let mut policy = RefreshPolicy::default();
    let wait = |policy: &RefreshPolicy, in_need, failures| {
        policy.cooldown(ErrorKind::Refused, in_need, failures, 0.5).as_secs()
    };
    assert_eq!([1, 2, 3, 4, 9].map(|count| wait(&policy, true, count)), [60, 120, 240, 300, 300]);
    assert_eq!([1, 4, 5, 9].map(|count| wait(&policy, false, count)), [60, 480, 900, 900]);
    // A program may ask for more.
    let hour = Duration::from_secs(3600);
    policy.cooldown_refused = Backoff::new(hour, hour);
    assert_eq!(wait(&policy, true, 1), 3600);
}

#[test]
fn an_attempt_needs_a_second_or_half_of_a_short_time_limit() {
    let mut policy = RefreshPolicy::default();
    assert_eq!(policy.min_attempt_time(), Duration::from_secs(1));
    policy.refresh_timeout = Duration::from_secs(1);
    assert_eq!(policy.min_attempt_time(), Duration::from_millis(500));
}

#[test]
fn an_attempt_is_repeated_only_if_that_can_help() {
    let policy = RefreshPolicy::default();
    let second = Duration::from_secs(1);
    let transient = Error::new(ErrorKind::Unavailable, "");
    let limited = |wait| Error::new(ErrorKind::RateLimited, "").with_retry_after(wait);
    assert_eq!(policy.retry_pause(&transient, 1, 30 * second, 1.0), Some(second / 2));
    assert_eq!(policy.retry_pause(&transient, 2, 30 * second, 1.0), Some(second));
    assert_eq!(policy.retry_pause(&transient, 2, 30 * second, 0.5), Some(second / 2));
    // At most three attempts.
    assert_eq!(policy.retry_pause(&transient, 3, 30 * second, 0.0), None);
    // A second must be left after the pause.
    assert_eq!(policy.retry_pause(&transient, 1, second + second / 2, 1.0), Some(second / 2));
    assert_eq!(policy.retry_pause(&transient, 1, second + second / 4, 1.0), None);
    assert_eq!(policy.retry_pause(&limited(5 * second), 1, 30 * second, 0.0), Some(5 * second));
    assert_eq!(policy.retry_pause(&limited(30 * second), 1, 30 * second, 0.0), None);
    // The issuer does not count attempts that never reached it.
    let unreached = transient.with_never_reached_issuer();
    assert_eq!(policy.retry_pause(&unreached, 9, 21 * second, 1.0), Some(second));
    assert_eq!(policy.retry_pause(&unreached, 9, 20 * second, 1.0), None);
    let limited_for_unknown_time = Error::new(ErrorKind::RateLimited, "");
    assert_eq!(policy.retry_pause(&limited_for_unknown_time, 1, 30 * second, 0.0), None);
    for kind in [ErrorKind::Refused, ErrorKind::Malformed, ErrorKind::Config] {
        assert_eq!(policy.retry_pause(&Error::new(kind, ""), 1, 30 * second, 0.0), None);
    }
}
