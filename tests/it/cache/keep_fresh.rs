//! `keep_fresh`: refreshing without traffic.

use sitecore_auth::{ErrorKind, Freshness, Token, TokenCache, source_fn};
use tokio::time::{sleep, timeout};

use crate::support::{DAY, HOUR, PausedClock, SECOND, ScriptedSource, Step, cache_of, spawn, text};

#[tokio::test(start_paused = true)]
async fn an_empty_cache_is_filled_and_kept_fresh_without_traffic() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    spawn(cache.keep_fresh());
    sleep(SECOND).await;
    assert_eq!(text(&cache.current().expect("a token")), "token-1");
    for day in 1..=10 {
        // Refreshed at 0.8 of each lifetime, although no caller asks.
        sleep(DAY.mul_f64(0.8)).await;
        assert_eq!(source.calls(), 1 + day);
    }
    // The new token settles first.
    sleep(15 * 60 * SECOND).await;
    assert_eq!(cache.status().freshness(), Some(Freshness::Fresh));
}

#[tokio::test(start_paused = true)]
async fn an_outage_without_traffic_costs_one_token_request_per_cooldown() {
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Unavailable));
    let cache = cache_of(&source, PausedClock::new());
    spawn(cache.keep_fresh());
    sleep(HOUR).await;
    // One attempt per cooldown, and cooldowns of 1 s doubling up to 30 s.
    assert!((115..=126).contains(&source.calls()), "{}", source.calls());
    source.turn_to(Step::Grant(DAY));
    sleep(31 * SECOND).await;
    assert!(cache.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn waking_from_suspend_is_noticed_within_30_seconds() {
    let clock = PausedClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock.clone());
    spawn(cache.keep_fresh());
    sleep(HOUR + 7 * SECOND).await;
    assert_eq!(source.calls(), 1);
    clock.wall_forward(2 * DAY);
    sleep(30 * SECOND + SECOND).await;
    assert_eq!((source.calls(), cache.status().freshness()), (2, Some(Freshness::Fresh)));
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_last_handle() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    let task = spawn(cache.keep_fresh());
    sleep(HOUR).await;
    let clone = cache.clone();
    drop(cache);
    sleep(HOUR).await;
    assert!(!task.is_finished());
    drop(clone);
    timeout(SECOND / 10, task).await.expect("it ends at once").expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_last_handle_even_if_a_refresh_hangs() {
    let source = ScriptedSource::new([], Step::Hang);
    let cache = cache_of(&source, PausedClock::new());
    let task = spawn(cache.keep_fresh());
    sleep(SECOND).await;
    drop(cache);
    timeout(31 * SECOND, task)
        .await
        .expect("it ends with that refresh")
        .expect("it does not panic");
}

#[tokio::test(start_paused = true)]
async fn it_idles_for_a_key_without_expiry() {
    let source = source_fn(|_| async { Token::api_key("sc_apikey".parse().unwrap(), "key") });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let task = spawn(cache.keep_fresh());
    sleep(100 * DAY).await;
    assert_eq!(cache.status().token_requests(), 1);
    assert_eq!((cache.status().usable_for(), cache.status().next_attempt_in()), (None, None));
    drop(cache);
    timeout(SECOND, task).await.expect("it ends").expect("it does not panic");
}

#[test]
fn outside_a_runtime_it_ends_at_once() {
    let cache = TokenCache::new(ScriptedSource::granting(DAY));
    let future = cache.keep_fresh();
    assert!(futures_util::FutureExt::now_or_never(future).is_some());
}
