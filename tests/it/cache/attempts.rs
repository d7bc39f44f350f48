//! The attempts within one refresh, and its time limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sitecore_auth::{Error, ErrorKind, Token, TokenCache, source_fn};
use tokio::time::{Instant, advance, sleep};

use super::{stale_cache, token_text};
use crate::support::{
    DAY, MINUTE, PausedClock, SECOND, ScriptedSource, Step, all_formats, cache_of,
};

#[tokio::test(start_paused = true)]
async fn a_refresh_with_a_waiting_caller_makes_three_attempts() {
    let source = ScriptedSource::new(
        [Step::Fail(ErrorKind::Unavailable), Step::Fail(ErrorKind::Unavailable)],
        Step::Grant(DAY),
    );
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    assert_eq!(token_text(&cache).await, "token-1");
    assert_eq!(source.calls(), 3);
    assert!(before.elapsed() <= SECOND + SECOND / 2);
    source.turn_to(Step::Fail(ErrorKind::Unavailable));
    advance(DAY).await;
    assert!(cache.token().await.is_err());
    assert_eq!(source.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_short_retry_after_is_waited_for_within_the_refresh() {
    let source =
        ScriptedSource::new([Step::FailFor(ErrorKind::RateLimited, 2 * SECOND)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    assert_eq!(token_text(&cache).await, "token-1");
    assert_eq!((before.elapsed(), source.calls()), (2 * SECOND, 2));
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_just_before_the_time_limit() {
    let source = ScriptedSource::new(
        [],
        Step::SlowFail(Duration::from_millis(29_100), ErrorKind::Unavailable),
    );
    let cache = cache_of(&source, PausedClock::new());
    assert!(cache.token().await.is_err());
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_source_times_out_after_30_seconds() {
    let source = ScriptedSource::new([Step::Hang], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    let error = cache.token().await.expect_err("a hang");
    assert_eq!((error.kind(), before.elapsed()), (ErrorKind::Unavailable, 30 * SECOND));
    assert_eq!(source.calls(), 1);
    advance(SECOND).await;
    assert_eq!(token_text(&cache).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_times_out_reports_why_its_previous_attempt_failed() {
    let unavailable = Step::SlowFail(10 * SECOND, ErrorKind::Unavailable);
    let source = ScriptedSource::new([unavailable], Step::Hang);
    let cache = cache_of(&source, PausedClock::new());
    let error = cache.token().await.expect_err("a hang");
    assert_eq!(source.calls(), 2);
    let message = all_formats(&error);
    assert!(
        message.contains("no token within 30s; the attempt before it failed: scripted"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn no_caller_waits_for_a_hanging_issuer_while_the_token_is_usable() {
    let (source, cache) = stale_cache(Step::Hang).await;
    let started = Instant::now();
    let mut calls = 0;
    while started.elapsed() < 10 * MINUTE {
        let before = Instant::now();
        assert_eq!(token_text(&cache).await, "token-1");
        assert_eq!(before.elapsed(), Duration::ZERO);
        sleep(SECOND).await;
        calls += 1;
    }
    // Each refresh takes 30 s, and a cooldown follows it.
    assert!(source.calls() <= 6, "{} token requests for {calls} calls", source.calls());
}

#[tokio::test(start_paused = true)]
async fn attempts_that_never_reached_the_issuer_are_not_among_the_three() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        let call = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            let error = Error::new(ErrorKind::Unavailable, "scripted");
            match call {
                0..4 => Err(error.with_never_reached_issuer()),
                4..6 => Err(error),
                _ => Token::bearer("token", DAY),
            }
        }
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    assert_eq!(token_text(&cache).await, "token");
    assert_eq!(calls.load(Ordering::SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_with_less_than_a_second_left() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    let caller = cache.token();
    tokio::pin!(caller);
    assert!(futures_util::poll!(&mut caller).is_pending());
    // The task is first polled half a second before the time limit.
    advance(Duration::from_millis(29_500)).await;
    let error = caller.await.expect_err("too late");
    assert!(all_formats(&error).contains("no token within 30s"), "{error:?}");
    assert_eq!(source.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_caches_each_token_until_its_end_causes_no_outage() {
    const LIFETIME: Duration = Duration::from_secs(900);
    let started = Instant::now();
    let source = source_fn(move |_| async move {
        // It says how many whole seconds are left, so it says zero in the last one.
        let elapsed = started.elapsed().as_secs_f64();
        let number = (elapsed / 900.0) as u64;
        let left = (LIFETIME.as_secs_f64() - elapsed % 900.0).floor();
        Token::bearer(format!("token-{number}"), Duration::from_secs_f64(left))
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    while started.elapsed() < 4 * LIFETIME {
        cache.token().await.expect("a token");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_without_a_wait_is_not_retried_within_the_refresh() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::RateLimited));
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.expect_err("a rate limit");
    assert_eq!(source.calls(), 1);
}
