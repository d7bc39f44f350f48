//! What a source learns about the fetch from its context.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use sitecore_auth::{ErrorKind, FetchContext, ManualClock, Result, Token, TokenCache, TokenSource};
use tokio::time::sleep;

use crate::support::{
    DAY, HOUR, PausedClock, SECOND, ScriptedSource, Step, cache_of, first_fetch, settle, text,
};

/// The token to replace, and whether it was rejected.
type Replacing = (Option<String>, bool);

/// A scripted source that records what its contexts say.
#[derive(Clone)]
struct Recorded(ScriptedSource, Arc<Mutex<Vec<Replacing>>>);

impl Recorded {
    fn new(source: ScriptedSource) -> Self {
        Self(source, Arc::default())
    }

    /// What the last context said.
    fn last(&self) -> Replacing {
        self.1.lock().unwrap().last().cloned().unwrap()
    }
}

#[async_trait]
impl TokenSource for Recorded {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        let replacing = context.replacing().map(text);
        self.1.lock().unwrap().push((replacing, context.rejected()));
        self.0.fetch(context).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_learns_whether_the_token_to_replace_was_rejected_or_is_only_old() {
    let (clock, source) = (ManualClock::new(), Recorded::new(ScriptedSource::granting(DAY)));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    cache.token().await.unwrap();
    assert_eq!(source.last(), (None, false));
    clock.advance(23 * HOUR + HOUR / 2);
    cache.current().expect("a stale token");
    settle().await;
    assert_eq!(source.last(), (Some("token-1".to_owned()), false));
    clock.advance(HOUR / 4);
    let second = cache.current().unwrap();
    cache.replace(&second).await.unwrap();
    assert_eq!(source.last(), (Some("token-2".to_owned()), true));
    clock.advance(DAY);
    cache.token().await.unwrap();
    assert_eq!(source.last(), (Some("token-3".to_owned()), false));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_remembered_if_its_token_expires_and_a_refresh_fails() {
    let (clock, script) = (ManualClock::new(), ScriptedSource::granting(DAY));
    let source = Recorded::new(script.clone());
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    let first = cache.token().await.unwrap();
    clock.advance(DAY);
    script.turn_to(Step::Fail(ErrorKind::Malformed));
    cache.replace(&first).await.unwrap_err();
    assert_eq!(source.last(), (Some("token-1".to_owned()), true));
    clock.advance(2 * SECOND);
    cache.token().await.unwrap_err();
    assert_eq!(source.last(), (Some("token-1".to_owned()), true));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_during_a_refresh_shows_in_its_next_attempt() {
    let script = ScriptedSource::new([Step::Grant(DAY)], Step::Grant(DAY));
    let (clock, source) = (ManualClock::new(), Recorded::new(script.clone()));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    let first = cache.token().await.unwrap();
    clock.advance(23 * HOUR + HOUR / 2);
    script.turn_to(Step::SlowFail(SECOND, ErrorKind::Unavailable));
    cache.current().expect("a stale token");
    settle().await;
    assert_eq!(source.last(), (Some("token-1".to_owned()), false));
    cache.replace(&first).await.unwrap_err();
    assert_eq!(source.last(), (Some("token-1".to_owned()), true));
}

/// Returns how much time was left at each fetch.
struct Timed(Arc<Mutex<Vec<Duration>>>);

#[async_trait]
impl TokenSource for Timed {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        self.0.lock().unwrap().push(context.time_left());
        sleep(10 * SECOND).await;
        Err(sitecore_auth::Error::new(ErrorKind::Unavailable, "slow"))
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_left_decreases_with_each_attempt() {
    let times = Arc::default();
    let source = Timed(Arc::clone(&times));
    let cache = TokenCache::builder(source).clock(PausedClock::new()).build().unwrap();
    cache.token().await.unwrap_err();
    let times = times.lock().unwrap();
    assert_eq!(times[0], 30 * SECOND);
    // The pause between the attempts is half a second at most.
    assert!(times[1] <= 20 * SECOND && times[1] >= 19 * SECOND, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_context_can_be_built_for_a_test_of_a_source() {
    let source = ScriptedSource::granting(DAY);
    let token = cache_of(&source, PausedClock::new()).token().await.unwrap();
    let context = first_fetch();
    assert!(context.replacing().is_none() && !context.rejected());
    let context = context.with_replacing(&token, true);
    let context = context.after(29 * SECOND);
    assert_eq!(text(context.replacing().unwrap()), "token-1");
    assert!(context.rejected());
    assert_eq!((context.elapsed(), context.time_left()), (29 * SECOND, SECOND));
    let context = context.after(Duration::MAX).after(Duration::MAX);
    assert_eq!((context.elapsed(), context.time_left()), (Duration::MAX, Duration::ZERO));
}
