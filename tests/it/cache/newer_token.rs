//! A newer token replaces the current one. The same token, or one that expires earlier, does not.

use tokio::time::{Instant, advance, sleep};

use super::{stale_cache, token_text};
use crate::support::{
    DAY, HOUR, MINUTE, PausedClock, SECOND, ScriptedSource, Step, cache_of, settle,
};

#[tokio::test(start_paused = true)]
async fn another_token_that_expires_at_the_same_time_replaces_the_current_one() {
    let (source, cache) = stale_cache(Step::Grant(4 * HOUR)).await;
    assert_eq!(token_text(&cache).await, "token-1");
    settle().await;
    // The new token settles first.
    advance(15 * MINUTE).await;
    assert_eq!((token_text(&cache).await, source.calls()), ("token-2".to_owned(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_earlier_does_not_replace_the_current_one() {
    let (source, cache) = stale_cache(Step::Grant(15 * MINUTE)).await;
    assert_eq!(token_text(&cache).await, "token-1");
    settle().await;
    assert_eq!((token_text(&cache).await, source.calls()), ("token-1".to_owned(), 2));
    // This is not a failure: the next attempt follows after half of the remaining time.
    advance(2 * HOUR - MINUTE).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(source.calls(), 2);
    advance(MINUTE).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(source.calls(), 3);
    // Now the current token has less time left than a new one.
    advance(2 * HOUR - 5 * MINUTE).await;
    assert!(cache.current().is_some());
    settle().await;
    advance(9 * SECOND).await;
    assert_eq!(token_text(&cache).await, "token-4");
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_token_is_requested_again_after_half_of_its_remaining_time() {
    let (source, cache) = stale_cache(Step::Same(1, DAY)).await;
    let started = Instant::now();
    let usable = 4 * HOUR - MINUTE;
    while started.elapsed() < usable {
        assert_eq!(token_text(&cache).await, "token-1");
        sleep(10 * SECOND).await;
    }
    // After half of the remaining time, but at least 30 s: 2 h, 1 h, 30 min …
    assert!((8..=11).contains(&(source.calls() - 1)), "{}", source.calls() - 1);
    // The first response set its expiry, and later responses did not move it. The source has
    // nothing else, so the token is used for another 5 min.
    let calls = source.calls();
    assert!(cache.current().is_none());
    assert_eq!(token_text(&cache).await, "token-1");
    assert_eq!((source.calls(), cache.status().usable_for()), (calls + 1, Some(270 * SECOND)));
    source.turn_to(Step::Grant(DAY));
    advance(270 * SECOND).await;
    assert_eq!(token_text(&cache).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_token_is_requested_at_most_every_30_seconds() {
    let lifetime = 1_000 * SECOND;
    let source = ScriptedSource::new([Step::Grant(lifetime)], Step::Same(1, lifetime));
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    // It is usable until 940 s.
    advance(900 * SECOND).await;
    cache.current().expect("a stale token");
    settle().await;
    assert_eq!(source.calls(), 2);
    assert_eq!(cache.status().next_attempt_in(), Some(30 * SECOND));
}
