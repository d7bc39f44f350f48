//! The monotonic clock and the wall clock.

use std::time::Duration;

use sitecore_auth::{Clock, ErrorKind, ManualClock, Moment};
use tokio::time::advance;

use super::token_text;
use crate::support::{
    DAY, HOUR, MINUTE, MS, PausedClock, SECOND, ScriptedSource, Step, cache_of, settle, text,
};

#[tokio::test(start_paused = true)]
async fn time_spent_suspended_counts_towards_a_tokens_age() {
    let clock = PausedClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock.clone());
    cache.token().await.unwrap();
    // The monotonic clock stands still while the machine is suspended.
    clock.wall_forward(DAY - MINUTE - MS);
    assert_eq!(text(&cache.current().expect("a token")), "token-1");
    clock.wall_forward(MS);
    assert!(cache.current().is_none_or(|token| text(&token) != "token-1"));
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_a_newer_token_replaces_the_current_one() {
    let clock = PausedClock::new();
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Grant(15 * HOUR));
    let cache = cache_of(&source, clock.clone());
    cache.token().await.unwrap();
    // By the wall clock 4 h are left, by the monotonic clock still 24 h.
    clock.wall_forward(20 * HOUR);
    assert!(cache.current().is_some());
    settle().await;
    // The new token settles first.
    advance(15 * MINUTE).await;
    assert_eq!((token_text(&cache).await, source.calls()), ("token-2".to_owned(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_forward_costs_one_early_refresh() {
    for forward in [25 * HOUR, 3_650 * DAY] {
        let clock = PausedClock::new();
        let source = ScriptedSource::granting(DAY);
        let cache = cache_of(&source, clock.clone());
        cache.token().await.unwrap();
        clock.wall_forward(forward);
        for _ in 0..100 {
            assert_eq!(token_text(&cache).await, "token-2");
            advance(MINUTE).await;
        }
        assert_eq!(source.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_back_does_not_lengthen_a_lifetime() {
    for back in [HOUR, DAY] {
        let clock = PausedClock::new();
        let source = ScriptedSource::new([Step::Grant(DAY)], Step::Hang);
        let cache = cache_of(&source, clock.clone());
        cache.token().await.unwrap();
        clock.wall_back(back);
        advance(DAY - MINUTE - MS).await;
        assert!(cache.current().is_some());
        advance(MS).await;
        assert!(cache.current().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_does_not_shorten_a_retry_after() {
    for wait in [25 * SECOND, 20 * MINUTE] {
        let clock = PausedClock::new();
        let source =
            ScriptedSource::new([Step::Grant(DAY)], Step::FailFor(ErrorKind::RateLimited, wait));
        let cache = cache_of(&source, clock.clone());
        cache.token().await.unwrap();
        advance(20 * HOUR).await;
        assert!(cache.current().is_some());
        settle().await;
        clock.wall_forward(HOUR);
        advance(wait - SECOND).await;
        assert!(cache.current().is_some());
        settle().await;
        assert_eq!(source.calls(), 2, "{wait:?}");
        // What is left of the cooldown is our own backoff, which ends by either clock.
        advance(SECOND).await;
        assert!(cache.current().is_some());
        settle().await;
        assert_eq!(source.calls(), 3, "{wait:?}");
    }
}

/// A clock that always shows the same time.
#[derive(Debug)]
struct Stopped(Moment);

impl Clock for Stopped {
    fn now(&self) -> Moment {
        self.0
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_at_its_maximum_keeps_tokens_and_cooldowns() {
    let clock = || Stopped(Moment::new(Duration::MAX, Duration::MAX));
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock());
    for _ in 0..10 {
        cache.token().await.unwrap();
    }
    assert_eq!(source.calls(), 1);
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    let cache = cache_of(&source, clock());
    for _ in 0..10 {
        cache.token().await.unwrap_err();
    }
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn a_manual_clock_moves_only_when_set() {
    let clock = ManualClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock.clone());
    cache.token().await.unwrap();
    clock.advance(HOUR);
    assert_eq!(cache.status().age(), Some(HOUR));
    clock.suspend(HOUR);
    assert_eq!(cache.status().age(), Some(2 * HOUR));
    clock.set_wall(Duration::from_secs(1_000));
    // The wall clock is now before the request, and the monotonic clock stood still in the suspend.
    assert_eq!(cache.status().age(), Some(HOUR));
    clock.advance(DAY);
    assert!(cache.current().is_none());
}
