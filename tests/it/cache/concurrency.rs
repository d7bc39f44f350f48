//! Many callers at once: one grant, one result, nobody queues.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use sitecore_auth::{Clock, Error, ErrorKind, Moment, TokenCache, source_fn};
use tokio::time::{Instant, advance};

use crate::support::{DAY, MS, PausedClock, ScriptedSource, Step, cache_of, settle, text};

const HERD: usize = 10_000;

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_callers_cost_one_grant() {
    let source = ScriptedSource::new([], Step::Slow(50 * MS, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    let tokens = join_all((0..HERD).map(|_| cache.token())).await;
    assert!(tokens.iter().all(|token| text(token.as_ref().unwrap()) == "token-1"));
    assert_eq!((source.calls(), before.elapsed()), (1, 50 * MS));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_callers_share_one_failure() {
    let source = ScriptedSource::new([], Step::SlowFail(50 * MS, ErrorKind::Unavailable));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    let results = join_all((0..HERD).map(|_| cache.token())).await;
    assert!(results.iter().all(|result| {
        result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable)
    }));
    // Three grants and two pauses of at most 0.5 s and 1 s; then everybody is done.
    assert_eq!(source.calls(), 3);
    assert!(before.elapsed() <= 1_650 * MS, "{:?}", before.elapsed());
}

/// Follows paused time until it is let go; then each look finds the time two seconds on.
#[derive(Clone, Debug)]
struct LooseClock(PausedClock, Arc<AtomicBool>);

impl Clock for LooseClock {
    fn now(&self) -> Moment {
        if self.1.load(Ordering::SeqCst) {
            self.0.wall_forward(Duration::from_secs(2));
        }
        self.0.now()
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_although_the_gate_is_open_when_it_is_told() {
    let clock = LooseClock(PausedClock::new(), Arc::default());
    let (loose, calls) = (Arc::clone(&clock.1), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        let (loose, counter) = (Arc::clone(&loose), Arc::clone(&counter));
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(50 * MS).await;
            loose.store(true, Ordering::SeqCst);
            Err(Error::new(ErrorKind::Malformed, "whole, and wrong"))
        }
    });
    let cache = TokenCache::builder(source).clock(clock).build().unwrap();
    let results = join_all((0..100).map(|_| cache.token())).await;
    assert!(results.iter().all(Result::is_err));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_caller_that_caused_the_refresh_may_go() {
    let source = ScriptedSource::new([], Step::Slow(60 * MS, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    {
        let mut driver = Box::pin(cache.token());
        assert!(futures_util::poll!(&mut driver).is_pending());
        settle().await;
        advance(20 * MS).await;
    }
    let others = join_all((0..100).map(|_| cache.token())).await;
    assert!(others.iter().all(Result::is_ok));
    assert_eq!((source.calls(), before.elapsed()), (1, 60 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_nobody_waits_for_any_more_goes_on() {
    let source = ScriptedSource::new([], Step::Slow(60 * MS, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let waited = tokio::time::timeout(20 * MS, cache.token()).await;
    assert!(waited.is_err());
    advance(40 * MS).await;
    settle().await;
    assert_eq!(text(&cache.current().expect("a token")), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_goes_hurts_no_other() {
    let source = ScriptedSource::new([], Step::Slow(60 * MS, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let hurried = join_all((0..50).map(|_| tokio::time::timeout(10 * MS, cache.token())));
    let patient = join_all((0..50).map(|_| cache.token()));
    let (hurried, patient) = tokio::join!(hurried, patient);
    assert!(hurried.iter().all(Result::is_err));
    assert!(patient.iter().all(Result::is_ok));
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_source_is_a_failed_refresh() {
    let source = ScriptedSource::new([Step::Panic], Step::Grant(DAY));
    let cache = cache_of(&source, PausedClock::new());
    let results = join_all((0..100).map(|_| cache.token())).await;
    assert!(results.iter().all(|result| {
        result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable)
    }));
    assert_eq!(source.calls(), 1);
    assert!(cache.token().await.unwrap_err().retry_after().is_some());
    advance(Duration::from_secs(1)).await;
    assert_eq!(text(&cache.token().await.unwrap()), "token-1");
}

#[tokio::test(start_paused = true)]
async fn caches_share_nothing_and_clones_everything() {
    let (first, second) = (ScriptedSource::granting(DAY), ScriptedSource::granting(DAY));
    let (one, two) = (cache_of(&first, PausedClock::new()), cache_of(&second, PausedClock::new()));
    one.token().await.unwrap();
    assert!(two.current().is_none());
    assert!(one.clone().current().is_some());
    two.token().await.unwrap();
    assert_eq!((first.calls(), second.calls()), (1, 1));
}
