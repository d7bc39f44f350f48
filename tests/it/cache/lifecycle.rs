//! The cache on paused time: fresh, stale, expired; the gate; two clocks; newer wins.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sitecore_auth::{
    Clock, Error, ErrorKind, ManualClock, Moment, Token, TokenCache, TokenSource, source_fn,
};
use tokio::time::{Instant, advance, sleep};

use crate::support::{
    DAY, HOUR, MINUTE, PausedClock, SECOND, ScriptedSource, Step, cache_of, everything_said,
    settle, text,
};

/// A cache that holds a day's token, at the age of 20 hours: stale, and usable for 3 h 59 min.
async fn stale_cache(then: Step) -> (ScriptedSource, TokenCache) {
    let source = ScriptedSource::new([Step::Grant(DAY)], then);
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(20 * HOUR).await;
    (source, cache)
}

async fn held(cache: &TokenCache) -> String {
    text(&cache.token().await.expect("a token"))
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_is_served_without_asking() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    assert!(cache.current().is_none());
    for _ in 0..1_000 {
        assert_eq!(held(&cache).await, "token-1");
        assert_eq!(text(&cache.current().expect("a token")), "token-1");
    }
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stale_token_is_served_while_one_refresh_runs() {
    let (source, cache) = stale_cache(Step::Slow(5 * SECOND, DAY)).await;
    let before = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(held(&cache).await, "token-1");
    }
    settle().await;
    assert_eq!(before.elapsed(), Duration::ZERO, "somebody waited");
    assert_eq!(source.calls(), 2);
    advance(5 * SECOND).await;
    settle().await;
    assert_eq!(held(&cache).await, "token-2");
    assert_eq!(source.last_replacing().as_deref(), Some("token-1"));
}

#[tokio::test(start_paused = true)]
async fn current_starts_the_refresh_of_a_stale_token_too() {
    let (_, cache) = stale_cache(Step::Grant(DAY)).await;
    assert_eq!(text(&cache.current().unwrap()), "token-1");
    settle().await;
    assert_eq!(text(&cache.current().unwrap()), "token-2");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_handed_out() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(3 * SECOND, DAY));
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(DAY - MINUTE).await;
    assert!(cache.current().is_none());
    let before = Instant::now();
    assert_eq!(held(&cache).await, "token-2");
    assert_eq!(before.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_life_counts_from_before_it_was_asked_for() {
    let source = ScriptedSource::new([Step::Slow(9 * SECOND, 100 * SECOND)], Step::Hang);
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(90 * SECOND - 9 * SECOND - Duration::from_millis(1)).await;
    assert!(cache.current().is_some());
    advance(Duration::from_millis(1)).await;
    assert!(cache.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_when_it_arrives_is_not_handed_out() {
    let source = ScriptedSource::new([Step::Slow(9 * SECOND, 5 * SECOND)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let error = cache.token().await.expect_err("it is over");
    assert_eq!(error.kind(), ErrorKind::Malformed);
    advance(2 * SECOND).await;
    assert_eq!(held(&cache).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn an_adopted_token_keeps_its_age() {
    let source = source_fn(|_| async { Ok(Token::bearer("old", DAY)?.with_age(23 * HOUR)) });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    assert_eq!(held(&cache).await, "old");
    advance(59 * MINUTE - Duration::from_millis(1)).await;
    assert!(cache.current().is_some());
    advance(Duration::from_millis(1)).await;
    assert!(cache.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_key_without_expiry_is_never_renewed() {
    let source = source_fn(|_| async { Token::api_key("sc_apikey".parse().unwrap(), "key") });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let key = cache.token().await.unwrap();
    assert_eq!((key.lifetime(), key.expires_at()), (None, None));
    advance(1_000 * DAY).await;
    assert!(cache.current().is_some());
}

// The gate.

#[tokio::test(start_paused = true)]
async fn a_failure_with_a_usable_token_is_not_noticed() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Unavailable)).await;
    for _ in 0..100 {
        assert_eq!(held(&cache).await, "token-1");
        settle().await;
    }
    // Nobody waits: one grant, then the gate.
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_one_grant_per_gate_while_a_token_is_usable() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Unavailable)).await;
    let first = Instant::now();
    while first.elapsed() < HOUR {
        assert!(cache.current().is_some());
        sleep(SECOND).await;
    }
    let asked: Vec<_> =
        source.asked()[1..].iter().map(|at| at.duration_since(first).as_secs()).collect();
    let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps[..5], [30, 60, 120, 240, 300], "{asked:?}");
    assert!(gaps[5..].iter().all(|gap| *gap == 300), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_survived_until_the_usable_instant_and_then_told() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Unavailable)).await;
    let begun = Instant::now();
    let usable = 4 * HOUR - MINUTE;
    while begun.elapsed() < usable {
        assert_eq!(held(&cache).await, "token-1");
        sleep(MINUTE).await;
    }
    let error = cache.token().await.expect_err("no token is usable");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.retry_after().is_some());
    source.turn_to(Step::Grant(DAY));
    sleep(31 * SECOND).await;
    assert_eq!(held(&cache).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn callers_without_a_token_fail_at_once_while_the_gate_is_closed() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Malformed));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.expect_err("a failure");
    assert_eq!((first.kind(), first.retry_after()), (ErrorKind::Malformed, Some(SECOND)));
    advance(SECOND / 2).await;
    let before = Instant::now();
    for _ in 0..1_000 {
        let error = cache.token().await.expect_err("the gate");
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Malformed, Some(SECOND / 2)));
    }
    assert_eq!((before.elapsed(), source.calls()), (Duration::ZERO, 1));
    source.turn_to(Step::Grant(DAY));
    advance(SECOND / 2).await;
    assert_eq!(held(&cache).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn the_gate_without_a_token_doubles_to_half_a_minute() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Malformed));
    let cache = cache_of(&source, PausedClock::new());
    for expected in [1, 2, 4, 8, 16, 30, 30, 30] {
        let error = cache.token().await.expect_err("a failure");
        assert_eq!(error.retry_after(), Some(expected * SECOND));
        advance(expected * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_closes_the_gate_for_minutes_and_not_for_ever() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    let cache = cache_of(&source, PausedClock::new());
    for (calls, minutes) in [1, 2, 4, 8, 15, 15].into_iter().enumerate() {
        let error = cache.token().await.expect_err("a refusal");
        assert_eq!(
            (error.kind(), error.retry_after()),
            (ErrorKind::Refused, Some(minutes * MINUTE))
        );
        // No retry within the refresh either.
        assert_eq!(source.calls(), calls + 1);
        advance(minutes * MINUTE).await;
    }
    source.turn_to(Step::Grant(DAY));
    assert_eq!(held(&cache).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn another_kind_of_failure_starts_its_own_backoff() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    let cache = cache_of(&source, PausedClock::new());
    for minutes in [1, 2, 4] {
        assert_eq!(cache.token().await.unwrap_err().retry_after(), Some(minutes * MINUTE));
        advance(minutes * MINUTE).await;
    }
    source.turn_to(Step::Fail(ErrorKind::Malformed));
    assert_eq!(cache.token().await.unwrap_err().retry_after(), Some(SECOND));
    advance(SECOND).await;
    assert_eq!(cache.token().await.unwrap_err().retry_after(), Some(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_take_a_usable_token_away() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Refused)).await;
    for _ in 0..200 {
        assert_eq!(held(&cache).await, "token-1");
        sleep(MINUTE).await;
    }
    assert!(source.calls() < 20, "{}", source.calls());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_the_server_named_is_kept() {
    let wait = 20 * MINUTE;
    let source =
        ScriptedSource::new([Step::FailFor(ErrorKind::RateLimited, wait)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let error = cache.token().await.expect_err("a limit");
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::RateLimited, Some(wait)));
    advance(wait - Duration::from_millis(1)).await;
    assert!(cache.token().await.is_err());
    advance(Duration::from_millis(1)).await;
    assert_eq!(held(&cache).await, "token-1");
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_named_wait_outlasts_the_token_held() {
    let (source, cache) = stale_cache(Step::FailFor(ErrorKind::RateLimited, HOUR)).await;
    advance(3 * HOUR + 58 * MINUTE).await;
    assert_eq!(held(&cache).await, "token-1");
    settle().await;
    advance(2 * MINUTE).await;
    let error = cache.token().await.expect_err("the gate");
    assert_eq!(error.retry_after(), Some(58 * MINUTE));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_hours_is_cut_to_one() {
    let source =
        ScriptedSource::new([Step::FailFor(ErrorKind::RateLimited, 12 * HOUR)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    let error = cache.token().await.expect_err("a limit");
    assert_eq!((error.retry_after(), before.elapsed()), (Some(HOUR), Duration::ZERO));
    advance(HOUR).await;
    assert_eq!(held(&cache).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_short_named_wait_is_waited_for_within_the_refresh() {
    let source =
        ScriptedSource::new([Step::FailFor(ErrorKind::RateLimited, 2 * SECOND)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    assert_eq!(held(&cache).await, "token-1");
    assert_eq!((before.elapsed(), source.calls()), (2 * SECOND, 2));
}

#[tokio::test(start_paused = true)]
async fn our_own_gate_opens_when_the_token_held_is_over() {
    let (source, cache) = stale_cache(Step::Fail(ErrorKind::Refused)).await;
    // 10 s before the end a refusal would close the gate for a minute.
    advance(4 * HOUR - MINUTE - 10 * SECOND).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(source.calls(), 2);
    source.turn_to(Step::Grant(DAY));
    advance(10 * SECOND).await;
    assert_eq!(held(&cache).await, "token-2");
}

// Retries.

#[tokio::test(start_paused = true)]
async fn a_refresh_that_somebody_waits_for_tries_three_times() {
    let source = ScriptedSource::new(
        [Step::Fail(ErrorKind::Unavailable), Step::Fail(ErrorKind::Unavailable)],
        Step::Grant(DAY),
    );
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    assert_eq!(held(&cache).await, "token-1");
    assert_eq!(source.calls(), 3);
    assert!(before.elapsed() <= SECOND + SECOND / 2);
    source.turn_to(Step::Fail(ErrorKind::Unavailable));
    advance(DAY).await;
    assert!(cache.token().await.is_err());
    assert_eq!(source.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn no_grant_begins_when_the_time_is_almost_over() {
    let source = ScriptedSource::new(
        [],
        Step::SlowFail(Duration::from_millis(29_100), ErrorKind::Unavailable),
    );
    let cache = cache_of(&source, PausedClock::new());
    assert!(cache.token().await.is_err());
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_success_the_gate_begins_with_its_shortest_wait() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Malformed));
    let cache = cache_of(&source, PausedClock::new());
    for _ in 0..5 {
        let error = cache.token().await.unwrap_err();
        let wait = error.retry_after().unwrap();
        let said = format!("(next attempt in {} s)", wait.as_secs_f64().ceil());
        assert!(error.to_string().ends_with(&said), "{error}");
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
async fn the_same_token_again_is_not_asked_for_more_often_than_every_half_minute() {
    let life = 1_000 * SECOND;
    let source = ScriptedSource::new([Step::Grant(life)], Step::Same(1, life));
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    // It can be used until 940 s.
    advance(900 * SECOND).await;
    cache.current().expect("a stale token");
    settle().await;
    assert_eq!(source.calls(), 2);
    assert_eq!(cache.status().next_attempt_in(), Some(30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_cut_off_tells_why_the_grant_before_failed() {
    let refused = Step::SlowFail(10 * SECOND, ErrorKind::RateLimited);
    let source = ScriptedSource::new([refused], Step::Hang);
    let cache = cache_of(&source, PausedClock::new());
    let error = cache.token().await.expect_err("a hang");
    assert_eq!(source.calls(), 2);
    let said = everything_said(&error);
    assert!(said.contains("no token within 30s; the attempt before it failed: scripted"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_source_is_given_up_after_the_refresh_time() {
    let source = ScriptedSource::new([Step::Hang], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    let error = cache.token().await.expect_err("a hang");
    assert_eq!((error.kind(), before.elapsed()), (ErrorKind::Unavailable, 30 * SECOND));
    assert_eq!(source.calls(), 1);
    advance(SECOND).await;
    assert_eq!(held(&cache).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_hanging_issuer_while_the_token_is_usable() {
    let (source, cache) = stale_cache(Step::Hang).await;
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < 10 * MINUTE {
        let before = Instant::now();
        assert_eq!(held(&cache).await, "token-1");
        assert_eq!(before.elapsed(), Duration::ZERO);
        sleep(SECOND).await;
        calls += 1;
    }
    // Bounded: 30 s each, and the gates between.
    assert!(source.calls() <= 6, "{} grants for {calls} calls", source.calls());
}

// Newer wins.

#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_kept_and_asked_for_at_growing_distance() {
    let (source, cache) = stale_cache(Step::Same(1, DAY)).await;
    let begun = Instant::now();
    let usable = 4 * HOUR - MINUTE;
    while begun.elapsed() < usable {
        assert_eq!(held(&cache).await, "token-1");
        sleep(10 * SECOND).await;
    }
    // After half of what remains each time, 30 s at least: 2 h, 1 h, 30 min …
    assert!((8..=11).contains(&(source.calls() - 1)), "{}", source.calls() - 1);
    // What was said of its end first, counts: it is over, whatever is said of it now.
    assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Malformed);
    source.turn_to(Step::Grant(DAY));
    advance(2 * SECOND).await;
    assert_eq!(held(&cache).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ends_earlier_does_not_replace_the_one_held() {
    let (source, cache) = stale_cache(Step::Grant(15 * MINUTE)).await;
    assert_eq!(held(&cache).await, "token-1");
    settle().await;
    assert_eq!((held(&cache).await, source.calls()), ("token-1".to_owned(), 2));
    // Success: the next attempt is half of the remaining life away.
    advance(2 * HOUR - MINUTE).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(source.calls(), 2);
    advance(MINUTE).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(source.calls(), 3);
    // Towards its end the shorter one is the newer one.
    advance(2 * HOUR - 5 * MINUTE).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(held(&cache).await, "token-4");
}

#[tokio::test(start_paused = true)]
async fn another_token_that_ends_with_the_one_held_replaces_it() {
    let (source, cache) = stale_cache(Step::Grant(4 * HOUR)).await;
    assert_eq!(held(&cache).await, "token-1");
    settle().await;
    assert_eq!((held(&cache).await, source.calls()), ("token-2".to_owned(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_source_may_be_boxed_or_shared() {
    let boxed: Box<dyn TokenSource> = Box::new(ScriptedSource::granting(DAY));
    let shared: Arc<dyn TokenSource> = Arc::new(ScriptedSource::granting(DAY));
    assert!(!boxed.has_new_credentials().await && !shared.has_new_credentials().await);
    assert_eq!(held(&TokenCache::new(boxed)).await, "token-1");
    assert_eq!(held(&TokenCache::new(shared)).await, "token-1");
}

#[tokio::test(start_paused = true)]
async fn after_suspend_the_newer_token_is_taken() {
    let clock = PausedClock::new();
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Grant(15 * HOUR));
    let cache = cache_of(&source, clock.clone());
    cache.token().await.unwrap();
    // By the wall clock 4 h are left; the monotonic clock, which stood still, says 24.
    clock.wall_forward(20 * HOUR);
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!((held(&cache).await, source.calls()), ("token-2".to_owned(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_stale_on_arrival_does_not_cost_a_grant_per_call() {
    let number = std::sync::atomic::AtomicU64::new(0);
    let source = source_fn(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        async move {
            Ok(Token::bearer(format!("old-{number}"), DAY + number as u32 * SECOND)?
                .with_age(21 * HOUR))
        }
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    for _ in 0..100 {
        cache.token().await.unwrap();
        settle().await;
    }
    assert_eq!(cache.status().token_requests(), 1);
    assert!(cache.status().next_attempt_in().unwrap() > HOUR);
}

// Two clocks.

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_does_not_shorten_a_named_wait() {
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
        // A gate of our own opens by either clock.
        advance(SECOND).await;
        assert!(cache.current().is_some());
        settle().await;
        assert_eq!(source.calls(), 3, "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_back_does_not_lengthen_a_life() {
    for back in [HOUR, DAY] {
        let clock = PausedClock::new();
        let source = ScriptedSource::new([Step::Grant(DAY)], Step::Hang);
        let cache = cache_of(&source, clock.clone());
        cache.token().await.unwrap();
        clock.wall_back(back);
        advance(DAY - MINUTE - Duration::from_millis(1)).await;
        assert!(cache.current().is_some());
        advance(Duration::from_millis(1)).await;
        assert!(cache.current().is_none());
    }
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
            assert_eq!(held(&cache).await, "token-2");
            advance(MINUTE).await;
        }
        assert_eq!(source.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn suspend_is_seen_by_the_wall_clock() {
    let clock = PausedClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock.clone());
    cache.token().await.unwrap();
    // While the machine slept the monotonic clock stood still.
    clock.wall_forward(DAY - MINUTE - Duration::from_millis(1));
    assert_eq!(text(&cache.current().expect("a token")), "token-1");
    clock.wall_forward(Duration::from_millis(1));
    assert!(cache.current().is_none_or(|token| text(&token) != "token-1"));
}

#[tokio::test(start_paused = true)]
async fn idle_for_days_then_a_burst_costs_one_grant() {
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(5 * DAY).await;
    let burst = futures_util::future::join_all((0..500).map(|_| cache.token())).await;
    assert!(burst.iter().all(|token| text(token.as_ref().unwrap()) == "token-2"));
    assert_eq!(source.calls(), 2);
}

// What it shows.

#[tokio::test(start_paused = true)]
async fn a_token_tells_its_end_and_hides_itself() {
    let clock = PausedClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock);
    let token = cache.token().await.unwrap();
    let (name, value) = token.header();
    assert_eq!((name.as_str(), value.is_sensitive()), ("authorization", true));
    assert_eq!(value.as_bytes(), b"Bearer token-1");
    assert_eq!(token.lifetime(), Some(DAY));
    let expires = token.expires_at().expect("a stamped token").timestamp();
    assert_eq!(expires, 1_800_000_000 + 100_000 + 86_400);
    let again = Token::bearer("token-1", HOUR).unwrap();
    assert_eq!(token.fingerprint(), again.fingerprint());
    assert_ne!(token.fingerprint(), Token::bearer("token-2", DAY).unwrap().fingerprint());
    for shown in [format!("{token:?}{token:#?}"), format!("{cache:?}{cache:#?}")] {
        assert!(
            shown.contains(&token.fingerprint().to_string()) && !shown.contains("token-1"),
            "{shown}"
        );
    }
}

#[test]
fn what_cannot_stand_in_a_header_is_no_token() {
    for bad in ["", "two words", "line\nend", "ü"] {
        let error: Error = Token::bearer(bad, HOUR).expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let error = Token::api_key("sc_apikey".parse().unwrap(), bad).expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}

/// Says always the same.
#[derive(Debug)]
struct Stopped(Moment);

impl Clock for Stopped {
    fn now(&self) -> Moment {
        self.0
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_beyond_all_measure_keeps_tokens_and_gates() {
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

/// The cause of a failure, which looks at the cache when it is dropped.
#[derive(Debug)]
struct Curious(Arc<OnceLock<TokenCache>>);

impl Drop for Curious {
    fn drop(&mut self) {
        if let Some(cache) = self.0.get() {
            let _ = cache.status();
        }
    }
}

impl fmt::Display for Curious {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("curious")
    }
}

impl std::error::Error for Curious {}

#[test]
fn the_cause_of_a_failure_may_look_at_the_cache_when_it_is_dropped() {
    let (done, is_done) = std::sync::mpsc::channel();
    // A thread of its own: were the lock held, it would hang.
    std::thread::spawn(move || {
        let kept = Arc::new(OnceLock::new());
        let (cause, fails) = (Arc::clone(&kept), AtomicBool::new(true));
        let source = source_fn(move |_| {
            let answer = if fails.swap(false, Ordering::SeqCst) {
                Err(Error::new(ErrorKind::Refused, Curious(Arc::clone(&cause))))
            } else {
                Token::bearer("token", HOUR)
            };
            async { answer }
        });
        let clock = ManualClock::new();
        let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
        kept.set(cache.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(cache.token()).unwrap_err();
        clock.advance(HOUR);
        runtime.block_on(cache.token()).unwrap();
        done.send(()).unwrap();
    });
    let waited = is_done.recv_timeout(Duration::from_secs(20));
    waited.expect("the lock was held while the failure was let go");
}
