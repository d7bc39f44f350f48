//! The cooldown after a failed refresh.

use std::time::Duration;

use futures_util::future::join_all;
use sitecore_auth::{ErrorKind, TokenCache};
use tokio::time::{Instant, advance, sleep};

use super::{stale_cache, token_text};
use crate::support::{
    DAY, HOUR, MINUTE, MS, PausedClock, SECOND, ScriptedSource, Step, cache_of, settle,
};

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_goes_unnoticed_while_the_token_is_usable() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Unavailable)).await;
    for _ in 0..100 {
        assert_eq!(token_text(&cache).await, "token-1");
        settle().await;
    }
    // No caller waits: one attempt, then a cooldown.
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_one_token_request_per_cooldown_while_a_token_is_usable() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Unavailable)).await;
    let first = Instant::now();
    while first.elapsed() < HOUR {
        assert!(cache.current().is_some());
        sleep(SECOND).await;
    }
    let seconds: Vec<_> =
        source.call_times()[1..].iter().map(|at| at.duration_since(first).as_secs()).collect();
    let gaps: Vec<_> = seconds.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps[..5], [30, 60, 120, 240, 300], "{seconds:?}");
    assert!(gaps[5..].iter().all(|gap| *gap == 300), "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_an_error_only_once_the_token_is_unusable() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Unavailable)).await;
    let started = Instant::now();
    let usable = 4 * HOUR - MINUTE;
    while started.elapsed() < usable {
        assert_eq!(token_text(&cache).await, "token-1");
        sleep(MINUTE).await;
    }
    let error = cache.token().await.expect_err("no token is usable");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.retry_after().is_some());
    source.turn_to(Step::Grant(DAY));
    sleep(31 * SECOND).await;
    assert_eq!(token_text(&cache).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn callers_without_a_token_fail_at_once_during_a_cooldown() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Malformed));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.expect_err("a failure");
    assert_eq!((first.kind(), first.retry_after()), (ErrorKind::Malformed, Some(SECOND)));
    advance(SECOND / 2).await;
    let before = Instant::now();
    for _ in 0..1_000 {
        let error = cache.token().await.expect_err("a cooldown");
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Malformed, Some(SECOND / 2)));
    }
    assert_eq!((before.elapsed(), source.calls()), (Duration::ZERO, 1));
    source.turn_to(Step::Grant(DAY));
    advance(SECOND / 2).await;
    assert_eq!(token_text(&cache).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn the_cooldown_without_a_token_doubles_up_to_30_seconds() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Malformed));
    let cache = cache_of(&source, PausedClock::new());
    for expected in [1, 2, 4, 8, 16, 30, 30, 30] {
        let error = cache.token().await.expect_err("a failure");
        assert_eq!(error.retry_after(), Some(expected * SECOND));
        advance(expected * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_success_the_cooldown_starts_at_its_shortest_again() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Malformed));
    let cache = cache_of(&source, PausedClock::new());
    for _ in 0..5 {
        let error = cache.token().await.unwrap_err();
        let wait = error.retry_after().unwrap();
        let suffix = format!("(next attempt in {} s)", wait.as_secs_f64().ceil());
        assert!(error.to_string().ends_with(&suffix), "{error}");
        sleep(wait / 2).await;
        let left = cache.status().last_error().unwrap().retry_after().unwrap();
        assert!(left <= wait / 2 && left > wait / 4, "{left:?} of {wait:?}");
        sleep(wait / 2 + SECOND / 100).await;
    }
    source.turn_to(Step::Grant(DAY));
    cache.token().await.unwrap();
    source.turn_to(Step::Fail(ErrorKind::Malformed));
    sleep(DAY).await;
    let wait = cache.token().await.unwrap_err().retry_after().unwrap();
    assert!(wait <= SECOND + SECOND / 4, "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_without_a_token_backs_off_for_up_to_5_minutes_and_recovers() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    let cache = cache_of(&source, PausedClock::new());
    for (calls, minutes) in [1, 2, 4, 5, 5].into_iter().enumerate() {
        let error = cache.token().await.expect_err("a refusal");
        assert_eq!(
            (error.kind(), error.retry_after()),
            (ErrorKind::Refused, Some(minutes * MINUTE))
        );
        // The refresh itself does not retry either.
        assert_eq!(source.calls(), calls + 1);
        advance(minutes * MINUTE).await;
    }
    source.turn_to(Step::Grant(DAY));
    assert_eq!(token_text(&cache).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn another_kind_of_failure_does_not_start_the_backoff_over() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    let cache = cache_of(&source, PausedClock::new());
    for minutes in [1, 2, 4] {
        assert_eq!(cache.token().await.unwrap_err().retry_after(), Some(minutes * MINUTE));
        advance(minutes * MINUTE).await;
    }
    source.turn_to(Step::Fail(ErrorKind::Malformed));
    // The fourth failure: 1 s, doubled three times.
    assert_eq!(cache.token().await.unwrap_err().retry_after(), Some(8 * SECOND));
    source.turn_to(Step::Fail(ErrorKind::Refused));
    advance(8 * SECOND).await;
    assert_eq!(cache.token().await.unwrap_err().retry_after(), Some(5 * MINUTE));
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_keeps_its_usable_token() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Refused)).await;
    for _ in 0..200 {
        assert_eq!(token_text(&cache).await, "token-1");
        sleep(MINUTE).await;
    }
    assert!(source.calls() < 20, "{}", source.calls());
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_sets_the_length_of_the_cooldown() {
    let wait = 20 * MINUTE;
    let source =
        ScriptedSource::new([Step::FailFor(ErrorKind::RateLimited, wait)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let error = cache.token().await.expect_err("a rate limit");
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::RateLimited, Some(wait)));
    advance(wait - MS).await;
    assert!(cache.token().await.is_err());
    advance(MS).await;
    assert_eq!(token_text(&cache).await, "token-1");
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_may_outlast_the_current_token() {
    let (source, cache) = stale_cache(Step::FailFor(ErrorKind::RateLimited, HOUR)).await;
    advance(3 * HOUR + 58 * MINUTE).await;
    assert_eq!(token_text(&cache).await, "token-1");
    settle().await;
    advance(2 * MINUTE).await;
    let error = cache.token().await.expect_err("a cooldown");
    assert_eq!(error.retry_after(), Some(58 * MINUTE));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_hours_is_capped_at_one_hour() {
    let source =
        ScriptedSource::new([Step::FailFor(ErrorKind::RateLimited, 12 * HOUR)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    let error = cache.token().await.expect_err("a rate limit");
    assert_eq!((error.retry_after(), before.elapsed()), (Some(HOUR), Duration::ZERO));
    advance(HOUR).await;
    assert_eq!(token_text(&cache).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_of_our_own_ends_when_the_current_token_expires() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Refused)).await;
    // The token expires in 10 s; the cooldown of a refused client would last a minute.
    advance(4 * HOUR - MINUTE - 10 * SECOND).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(source.calls(), 2);
    source.turn_to(Step::Grant(DAY));
    advance(10 * SECOND).await;
    assert_eq!(token_text(&cache).await, "token-2");
}

#[tokio::test]
async fn a_caller_that_waits_for_as_long_as_the_error_says_is_not_too_early() {
    // By the machine's clock, which lags by some milliseconds on Linux.
    let callers = (0..40_u32).map(|caller| async move {
        let source = ScriptedSource::new([], Step::Fail(ErrorKind::Malformed));
        let cache = TokenCache::new(source.clone());
        sleep(MS / 4 * caller).await;
        let error = cache.token().await.expect_err("a failure");
        sleep(error.retry_after().expect("a cooldown")).await;
        cache.token().await.expect_err("another failure");
        assert_eq!(source.calls(), 2, "caller {caller}");
    });
    join_all(callers).await;
}
