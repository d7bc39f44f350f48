//! `replace`: another token instead of one that an API rejected, without a storm of token requests.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use sitecore_auth::{ErrorKind, Token, TokenCache, source_fn};
use tokio::time::{Instant, advance, sleep};

use crate::support::{
    DAY, HOUR, MINUTE, MS, PausedClock, SECOND, ScriptedSource, Step, cache_of, settle, text,
};

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_by_one_token_request_for_all_callers() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(SECOND, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    let all = join_all((0..10_000).map(|_| cache.replace(&first))).await;
    assert!(all.iter().all(|token| text(token.as_ref().unwrap()) == "token-2"));
    assert_eq!(source.calls(), 2);
    assert_eq!(source.last_replacing().as_deref(), Some("token-1"));
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_older_token_costs_no_token_request() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    let second = cache.replace(&first).await.unwrap();
    for _ in 0..100 {
        assert_eq!(text(&cache.replace(&first).await.unwrap()), text(&second));
    }
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_serves_other_callers_until_there_is_another() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Unavailable));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    let error = cache.replace(&first).await.expect_err("the issuer is down");
    // A caller is in need, so the cooldown is short.
    assert_eq!(error.retry_after(), Some(SECOND));
    assert_eq!(text(&cache.token().await.unwrap()), "token-1");
    // No token request is made during the cooldown.
    let calls = source.calls();
    assert!(cache.replace(&first).await.is_err());
    assert_eq!(source.calls(), calls);
    source.turn_to(Step::Grant(DAY));
    advance(SECOND).await;
    assert_eq!(text(&cache.replace(&first).await.unwrap()), "token-2");
}

#[tokio::test(start_paused = true)]
async fn getting_the_rejected_token_again_is_an_error() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Same(1, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    advance(2 * SECOND).await;
    let error = cache.replace(&first).await.expect_err("the same token");
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(MINUTE)));
    // Other callers still get it, and another `replace` costs no token request.
    assert_eq!(text(&cache.token().await.unwrap()), "token-1");
    assert!(cache.replace(&first).await.is_err());
    assert_eq!(source.calls(), 2);
    // The status reports the failure until a refresh returns another token.
    advance(20 * SECOND).await;
    let status = cache.status();
    let error = status.last_error().expect("the last refresh failed");
    assert_eq!(error.retry_after(), Some(40 * SECOND));
    advance(40 * SECOND).await;
    source.turn_to(Step::Grant(DAY));
    cache.replace(&first).await.expect("another token");
    assert!(cache.status().last_error().is_none());
}

#[tokio::test(start_paused = true)]
async fn callers_that_wait_share_the_failure_if_the_rejected_token_comes_back() {
    let steps = [Step::Grant(DAY), Step::Slow(2 * SECOND, DAY)];
    let source = ScriptedSource::new(steps, Step::Same(1, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    advance(3 * SECOND).await;
    source.turn_to(Step::Same(1, DAY));
    let started = Instant::now();
    let all = join_all((0..100).map(|_| cache.replace(&first))).await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!((source.calls(), started.elapsed()), (2, std::time::Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_token_granted_within_the_same_second_may_be_identical() {
    let steps = [Step::Grant(DAY), Step::Same(1, DAY)];
    let source = ScriptedSource::new(steps, Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    advance(300 * MS).await;
    let started = Instant::now();
    assert_eq!(text(&cache.replace(&first).await.expect("another token")), "token-2");
    assert_eq!((source.calls(), started.elapsed()), (3, SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_api_that_rejects_everything_gets_new_tokens_less_and_less_often() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    let mut token = cache.token().await.unwrap();
    let started = Instant::now();
    while started.elapsed() < 16 * HOUR {
        if let Ok(other) = cache.replace(&token).await {
            token = other;
        }
        // Other callers always get a token.
        assert!(cache.current().is_some());
        sleep(10 * SECOND).await;
    }
    let minutes: Vec<_> = source.call_times()[1..]
        .iter()
        .map(|at| at.duration_since(started).as_secs() / 60)
        .collect();
    // At 0, then 1, 2, 4 … minutes later, up to an eighth of the lifetime: 180.
    assert_eq!(minutes[..8], [0, 1, 3, 7, 15, 31, 63, 127], "{minutes:?}");
    let gaps: Vec<_> = minutes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[8..].iter().all(|gap| (180..=181).contains(gap)), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_because_of_age_restarts_the_rejection_backoff() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    let second = cache.replace(&first).await.unwrap();
    assert!(cache.replace(&second).await.is_err());
    advance(20 * HOUR).await;
    assert!(cache.current().is_some());
    settle().await;
    let third = cache.token().await.unwrap();
    assert_eq!(text(&third), "token-3");
    let fourth = cache.replace(&third).await.unwrap();
    assert_eq!(text(&fourth), "token-4");
    let error = cache.replace(&fourth).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(MINUTE), "the backoff starts over");
}

#[tokio::test(start_paused = true)]
async fn the_rejection_backoff_of_a_key_without_expiry_grows_to_15_minutes() {
    let number = AtomicUsize::new(0);
    let source = source_fn(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        let name = http::HeaderName::from_static("sc_apikey");
        async move { Token::api_key(name, format!("key-{number}")) }
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let mut key = cache.token().await.unwrap();
    let mut waits = Vec::new();
    for _ in 0..7 {
        key = cache.replace(&key).await.unwrap();
        let error = cache.replace(&key).await.unwrap_err();
        let wait = error.retry_after().unwrap();
        waits.push(wait.as_secs() / 60);
        // Long enough for the budget of the cache to regain the token request.
        sleep(wait + HOUR).await;
    }
    assert_eq!(waits, [1, 2, 4, 8, 15, 15, 15]);
}

#[tokio::test(start_paused = true)]
async fn adopted_tokens_are_replacements_but_not_token_requests() {
    let number = AtomicUsize::new(0);
    let source = source_fn(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        async move { Ok(Token::bearer(format!("adopted-{number}"), DAY)?.adopted()) }
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let mut token = cache.token().await.unwrap();
    // The schedule counts them: after 1, 2, 4 … minutes. The budget of 6 does not.
    for minutes in [1, 2, 4, 8, 16, 32, 64, 128] {
        token = cache.replace(&token).await.expect("another token at once");
        let wait = cache.replace(&token).await.unwrap_err().retry_after();
        assert_eq!(wait, Some(minutes * MINUTE));
        sleep(minutes * MINUTE).await;
    }
    assert_eq!(cache.status().token_requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_token_does_not_say_that_it_was_adopted() {
    let number = AtomicUsize::new(0);
    let source = source_fn(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        let age = std::time::Duration::from_nanos(1);
        async move { Ok(Token::bearer(format!("granted-{number}"), DAY)?.with_age(age)) }
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let mut token = cache.token().await.unwrap();
    let started = Instant::now();
    while started.elapsed() < HOUR {
        if let Ok(other) = cache.replace(&token).await {
            token = other;
        }
        sleep(SECOND).await;
    }
    // At 0, 1, 3, 7, 15 and 31 minutes.
    assert_eq!(cache.status().token_requests(), 1 + 6);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_during_a_refresh_shares_that_refresh() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(5 * SECOND, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    advance(20 * HOUR).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(text(&cache.replace(&first).await.unwrap()), "token-2");
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_even_by_one_that_expires_earlier() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Grant(15 * MINUTE));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    assert_eq!(text(&cache.replace(&first).await.unwrap()), "token-2");
    assert_eq!(text(&cache.token().await.unwrap()), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_in_flight_replaces_a_rejected_token_even_by_one_that_expires_earlier() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(5 * SECOND, 15 * MINUTE));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    advance(20 * HOUR).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!(text(&cache.replace(&first).await.unwrap()), "token-2");
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_does_not_come_back_with_a_later_refresh() {
    let source =
        ScriptedSource::new([Step::Grant(DAY), Step::Grant(15 * MINUTE)], Step::Same(1, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let first = cache.token().await.unwrap();
    cache.replace(&first).await.unwrap();
    advance(13 * MINUTE).await;
    assert!(cache.current().is_some());
    settle().await;
    assert_eq!((source.calls(), text(&cache.current().unwrap())), (3, "token-2".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_same_token_from_a_store_is_not_requested_again_and_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Ok(Token::bearer("same", DAY)?.adopted()) }
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let token = cache.token().await.unwrap();
    for _ in 0..1_000 {
        let error = cache.replace(&token).await.expect_err("the same token");
        assert!(error.retry_after().unwrap() > 50 * SECOND);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_that_was_rejected_comes_back_only_for_other_callers() {
    let source = ScriptedSource::new([Step::Grant(100 * SECOND)], Step::Same(1, 100 * SECOND));
    let cache = cache_of(&source, PausedClock::new());
    let token = cache.token().await.unwrap();
    advance(100 * SECOND).await;
    let error = cache.replace(&token).await.expect_err("the same token");
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(MINUTE)));
    // They have nothing better, and their API may accept it.
    assert_eq!(text(&cache.token().await.unwrap()), "token-1");
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_an_empty_cache_gets_costs_one_token_request() {
    let source = ScriptedSource::granting(DAY);
    let token = cache_of(&source, PausedClock::new()).token().await.unwrap();
    let source = ScriptedSource::new([], Step::Same(1, DAY));
    let cache = cache_of(&source, PausedClock::new());
    for _ in 0..10 {
        cache.replace(&token).await.expect_err("the same token");
    }
    assert_eq!(source.calls(), 1);
}
