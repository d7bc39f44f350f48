//! Many callers at once share one refresh and its result.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use sitecore_auth::{Clock, Error, ErrorKind, Moment, TokenCache, source_fn};
use tokio::time::{Instant, advance};

use crate::support::{DAY, MS, PausedClock, SECOND, ScriptedSource, Step, cache_of, settle, text};

const CALLERS: usize = 10_000;

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_callers_cost_one_token_request() {
    let source = ScriptedSource::new([], Step::Slow(50 * MS, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    let tokens = join_all((0..CALLERS).map(|_| cache.token())).await;
    assert!(tokens.iter().all(|token| text(token.as_ref().unwrap()) == "token-1"));
    assert_eq!((source.calls(), before.elapsed()), (1, 50 * MS));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_cold_callers_share_one_failure() {
    let source = ScriptedSource::new([], Step::SlowFail(50 * MS, ErrorKind::Unavailable));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    let results = join_all((0..CALLERS).map(|_| cache.token())).await;
    assert!(results.iter().all(|result| {
        result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable)
    }));
    // Three attempts, with pauses of at most 0.5 s and 1 s between them.
    assert_eq!(source.calls(), 3);
    assert!(before.elapsed() <= 1_650 * MS, "{:?}", before.elapsed());
}

/// Follows paused time until it is released. From then on, every reading is two seconds later.
#[derive(Clone, Debug)]
struct RunawayClock {
    clock: PausedClock,
    released: Arc<AtomicBool>,
}

impl Clock for RunawayClock {
    fn now(&self) -> Moment {
        if self.released.load(Ordering::SeqCst) {
            self.clock.wall_forward(2 * SECOND);
        }
        self.clock.now()
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shared_even_if_the_cooldown_has_ended_before_callers_see_it() {
    let (released, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clock = RunawayClock { clock: PausedClock::new(), released: Arc::clone(&released) };
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        let (released, counter) = (Arc::clone(&released), Arc::clone(&counter));
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(50 * MS).await;
            released.store(true, Ordering::SeqCst);
            Err(Error::new(ErrorKind::Malformed, "scripted"))
        }
    });
    let cache = TokenCache::builder(source).clock(clock).build().unwrap();
    let results = join_all((0..100).map(|_| cache.token())).await;
    assert!(results.iter().all(Result::is_err));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_burst_after_idle_days_costs_one_token_request() {
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let cache = cache_of(&source, PausedClock::new());
    cache.token().await.unwrap();
    advance(5 * DAY).await;
    let burst = join_all((0..500).map(|_| cache.token())).await;
    assert!(burst.iter().all(|token| text(token.as_ref().unwrap()) == "token-2"));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_caller_that_started_the_refresh_may_be_dropped() {
    let source = ScriptedSource::new([], Step::Slow(60 * MS, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let before = Instant::now();
    {
        let mut first = Box::pin(cache.token());
        assert!(futures_util::poll!(&mut first).is_pending());
        settle().await;
        advance(20 * MS).await;
    }
    let others = join_all((0..100).map(|_| cache.token())).await;
    assert!(others.iter().all(Result::is_ok));
    assert_eq!((source.calls(), before.elapsed()), (1, 60 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_continues_after_its_last_caller_is_dropped() {
    let source = ScriptedSource::new([], Step::Slow(60 * MS, DAY));
    let cache = cache_of(&source, PausedClock::new());
    let waited = tokio::time::timeout(20 * MS, cache.token()).await;
    assert!(waited.is_err());
    advance(40 * MS).await;
    settle().await;
    assert_eq!(text(&cache.current().expect("a token")), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_caller_does_not_affect_the_others() {
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
    advance(SECOND).await;
    assert_eq!(text(&cache.token().await.unwrap()), "token-1");
}

#[tokio::test(start_paused = true)]
async fn caches_share_nothing_and_their_clones_share_everything() {
    let (first, second) = (ScriptedSource::granting(DAY), ScriptedSource::granting(DAY));
    let (one, two) = (cache_of(&first, PausedClock::new()), cache_of(&second, PausedClock::new()));
    one.token().await.unwrap();
    assert!(two.current().is_none());
    assert!(one.clone().current().is_some());
    two.token().await.unwrap();
    assert_eq!((first.calls(), second.calls()), (1, 1));
}
