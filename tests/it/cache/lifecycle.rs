//! Fresh, stale and expired tokens.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use sitecore_auth::{Error, ErrorKind, ManualClock, Token, TokenCache, TokenSource, source_fn};
use tokio::time::{Instant, advance};

use super::{stale_cache, token_text};
use crate::support::{
    DAY, HOUR, MINUTE, MS, PausedClock, SECOND, ScriptedSource, Step, cache_of, settle, text,
};

#[tokio::test(start_paused = true)]
async fn a_fresh_token_is_returned_without_a_token_request() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, PausedClock::new());
    for _ in 0..1_000 {
        assert_eq!(token_text(&cache).await, "token-1");
        assert_eq!(text(&cache.current().expect("a token")), "token-1");
    }
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stale_token_is_returned_while_one_refresh_runs() {
    let (source, cache) = stale_cache(Step::Slow(5 * SECOND, DAY)).await;
    let before = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(token_text(&cache).await, "token-1");
    }
    settle().await;
    assert_eq!(before.elapsed(), Duration::ZERO, "a caller waited");
    assert_eq!(source.calls(), 2);
    advance(15 * MINUTE).await;
    settle().await;
    assert_eq!(token_text(&cache).await, "token-2");
    assert_eq!((source.calls(), source.last_replacing().as_deref()), (2, Some("token-1")));
}

#[tokio::test(start_paused = true)]
async fn current_also_refreshes_a_stale_token() {
    let (_, cache) = stale_cache(Step::Grant(DAY)).await;
    assert_eq!(text(&cache.current().unwrap()), "token-1");
    settle().await;
    advance(15 * MINUTE).await;
    assert_eq!(text(&cache.current().unwrap()), "token-2");
}

#[tokio::test(start_paused = true)]
async fn current_refreshes_an_expired_or_missing_token_too() {
    let clock = PausedClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, clock.clone());
    assert!(cache.current().is_none());
    settle().await;
    assert_eq!(text(&cache.current().expect("a token")), "token-1");
    // The machine sleeps for two days.
    clock.wall_forward(2 * DAY);
    assert!(cache.current().is_none());
    settle().await;
    assert_eq!(text(&cache.current().expect("a token")), "token-2");
    // While the issuer is down, it makes one attempt per cooldown.
    source.turn_to(Step::Fail(ErrorKind::Unavailable));
    clock.wall_forward(2 * DAY);
    for _ in 0..1_000 {
        assert!(cache.current().is_none());
        settle().await;
    }
    assert_eq!(source.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_returned() {
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(3 * SECOND, DAY));
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(DAY - MINUTE).await;
    assert!(cache.current().is_none());
    let before = Instant::now();
    assert_eq!(token_text(&cache).await, "token-2");
    assert_eq!(before.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_counts_from_before_the_token_request() {
    let source = ScriptedSource::new([Step::Slow(9 * SECOND, 100 * SECOND)], Step::Hang);
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(90 * SECOND - 9 * SECOND - MS).await;
    assert!(cache.current().is_some());
    advance(MS).await;
    assert!(cache.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_expired_on_arrival_is_not_returned() {
    let source = ScriptedSource::new([Step::Slow(9 * SECOND, 5 * SECOND)], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    // The refresh makes another attempt, because a caller waits.
    assert_eq!(token_text(&cache).await, "token-2");
    let source = ScriptedSource::new([], Step::Slow(9 * SECOND, 5 * SECOND));
    let cache = cache_of(&source, PausedClock::new());
    let error = cache.token().await.expect_err("it has expired");
    assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Malformed, true));
}

#[tokio::test(start_paused = true)]
async fn an_adopted_token_keeps_its_age() {
    let first = AtomicBool::new(true);
    let source = source_fn(move |_| {
        let is_first = first.swap(false, Ordering::SeqCst);
        async move {
            if !is_first {
                std::future::pending::<()>().await;
            }
            Ok(Token::bearer("old", DAY)?.with_age(23 * HOUR))
        }
    });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    assert_eq!(token_text(&cache).await, "old");
    advance(59 * MINUTE - MS).await;
    assert!(cache.current().is_some());
    advance(MS).await;
    assert!(cache.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_stale_on_arrival_does_not_cost_a_token_request_per_call() {
    let number = AtomicU32::new(0);
    let source = source_fn(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        async move {
            Ok(Token::bearer(format!("old-{number}"), DAY + number * SECOND)?.with_age(21 * HOUR))
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

#[tokio::test(start_paused = true)]
async fn a_key_without_expiry_is_never_refreshed() {
    let source = source_fn(|_| async { Token::api_key("sc_apikey".parse().unwrap(), "key") });
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    let key = cache.token().await.unwrap();
    assert_eq!((key.lifetime(), key.expires_at()), (None, None));
    advance(1_000 * DAY).await;
    assert!(cache.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_source_may_be_boxed_or_shared() {
    let boxed: Box<dyn TokenSource> = Box::new(ScriptedSource::granting(DAY));
    let shared: Arc<dyn TokenSource> = Arc::new(ScriptedSource::granting(DAY));
    assert!(!boxed.has_new_credentials().await && !shared.has_new_credentials().await);
    assert_eq!(token_text(&TokenCache::new(boxed)).await, "token-1");
    assert_eq!(token_text(&TokenCache::new(shared)).await, "token-1");
}

/// The cause of an error. It queries the cache when it is dropped.
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
fn the_cause_of_an_error_may_query_the_cache_when_it_is_dropped() {
    let (done, is_done) = std::sync::mpsc::channel();
    // On its own thread, because the call never returns if the error is dropped under the lock.
    std::thread::spawn(move || {
        let slot = Arc::new(OnceLock::new());
        let (cause, fails) = (Arc::clone(&slot), AtomicBool::new(true));
        let source = source_fn(move |_| {
            let result = if fails.swap(false, Ordering::SeqCst) {
                Err(Error::new(ErrorKind::Refused, Curious(Arc::clone(&cause))))
            } else {
                Token::bearer("token", HOUR)
            };
            async { result }
        });
        let clock = ManualClock::new();
        let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
        slot.set(cache.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(cache.token()).unwrap_err();
        clock.advance(HOUR);
        runtime.block_on(cache.token()).unwrap();
        done.send(()).unwrap();
    });
    let waited = is_done.recv_timeout(Duration::from_secs(20));
    waited.expect("the error was dropped under the lock");
}
