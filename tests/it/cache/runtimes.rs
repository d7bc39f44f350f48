//! Lost, parked and missing runtimes: real ones, real time, no sockets.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusBuilder;
use sitecore_auth::{
    Error, ErrorKind, ManualClock, RefreshPolicy, Target, Token, TokenCache, source_fn,
};
use tokio::{runtime::Builder, task::LocalSet, time::Instant};

use crate::support::{DAY, Logs, MS, ScriptedSource, Step, auth_error, client_with, settle, text};

fn current_thread() -> tokio::runtime::Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Polls once, outside any runtime.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = std::pin::pin!(future);
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Hangs the first time, after telling that it was called, and grants from then on.
fn hanging_once(called: Sender<()>) -> impl sitecore_auth::TokenSource {
    let first = Mutex::new(Some(called));
    source_fn(move |_| {
        let first = first.lock().unwrap().take();
        async move {
            if let Some(called) = first {
                let _ = called.send(());
                std::future::pending::<()>().await;
            }
            Token::bearer("token", DAY)
        }
    })
}

#[test]
fn a_client_outlives_the_runtime_that_ran_its_refresh() {
    let (sender, called) = channel();
    let cache = TokenCache::new(hanging_once(sender));
    let lost = current_thread();
    let waited = lost.block_on(async { tokio::time::timeout(20 * MS, cache.token()).await });
    assert!(waited.is_err());
    called.recv().unwrap();
    drop(lost);
    // Nobody tells the cache; it must notice, at once.
    let begun = Instant::now();
    let token = current_thread().block_on(cache.token()).expect("a new refresh on the new runtime");
    assert_eq!(text(&token), "token");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn whoever_waits_when_the_runtime_dies_starts_the_next_refresh() {
    let (sender, called) = channel();
    let cache = TokenCache::new(hanging_once(sender));
    let lost = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let starter = cache.clone();
    lost.spawn(async move { starter.token().await });
    called.recv().unwrap();
    let waiter = thread::spawn(move || current_thread().block_on(cache.token()));
    // The waiter is (almost certainly) waiting by now; if it is not, it must fare the same.
    #[expect(clippy::disallowed_methods, reason = "gives the other thread time to wait")]
    thread::sleep(50 * MS);
    lost.shutdown_background();
    assert_eq!(text(&waiter.join().unwrap().expect("a token")), "token");
}

#[test]
fn a_stale_token_is_renewed_although_the_last_runtime_took_its_refresh_with_it() {
    let source =
        ScriptedSource::new([Step::Grant(Duration::from_secs(2)), Step::Hang], Step::Grant(DAY));
    let cache = TokenCache::new(source.clone());
    current_thread().block_on(cache.token()).unwrap();
    // Stale after 1.4 to 1.6 s, usable for 1.8 s.
    let until_stale = current_thread();
    until_stale.block_on(async { tokio::time::sleep(1_650 * MS).await });
    until_stale.block_on(async {
        assert!(cache.current().is_some());
        settle().await;
    });
    assert_eq!(source.calls(), 2);
    drop(until_stale);
    current_thread().block_on(async {
        assert!(cache.current().is_some());
        settle().await;
    });
    assert_eq!(source.calls(), 3);
}

#[test]
fn a_stale_token_is_renewed_although_the_last_runtime_is_parked() {
    let clock = ManualClock::new();
    let source = ScriptedSource::new([Step::Grant(DAY), Step::Hang], Step::Grant(DAY));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    let look = |runtime: &tokio::runtime::Runtime| {
        runtime.block_on(async {
            assert!(cache.current().is_some());
            settle().await;
        });
    };
    let (parked, other) = (current_thread(), current_thread());
    parked.block_on(cache.token()).unwrap();
    clock.advance(DAY * 5 / 6);
    look(&parked);
    assert_eq!(source.calls(), 2);
    clock.advance(Duration::from_secs(30));
    look(&other);
    assert_eq!(source.calls(), 2, "it may still be at work");
    clock.advance(Duration::from_secs(2));
    look(&other);
    assert_eq!(source.calls(), 3);
    assert_eq!(text(&cache.current().unwrap()), "token-2");
}

#[test]
fn a_parked_runtime_holds_nobody_longer_than_the_refresh_may_take() {
    let (sender, called) = channel();
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 300 * MS;
    let cache = TokenCache::builder(hanging_once(sender)).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        // Starts the refresh, lets it run up to its first wait, and is driven no more.
        let _ = tokio::time::timeout(20 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let begun = Instant::now();
    let token = current_thread().block_on(cache.token()).expect("a refresh elsewhere");
    assert_eq!(text(&token), "token");
    assert!(
        begun.elapsed() >= 250 * MS && begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    // The parked one wakes up, late, and changes nothing.
    parked.block_on(async { tokio::time::sleep(10 * MS).await });
    assert_eq!(text(&cache.current().expect("still there")), "token");
}

#[test]
fn a_parked_runtime_is_given_up_by_the_timer_although_the_clock_stands() {
    let (sender, called) = channel();
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 200 * MS;
    let builder = TokenCache::builder(hanging_once(sender)).policy(policy);
    let cache = builder.clock(ManualClock::new()).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(20 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let begun = Instant::now();
    current_thread().block_on(cache.token()).expect("a refresh elsewhere");
    assert!(begun.elapsed() < 1_000 * MS, "{:?}", begun.elapsed());
}

#[test]
fn a_refresh_that_was_given_up_asks_no_more() {
    let calls = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        let mut calls = counter.lock().unwrap();
        *calls += 1;
        let first = *calls == 1;
        async move {
            if first {
                // Waited for within the refresh.
                return Err(
                    Error::new(ErrorKind::Unavailable, "a hiccup").with_retry_after(150 * MS)
                );
            }
            Token::bearer("token", DAY)
        }
    });
    let mut policy = RefreshPolicy::default();
    // An attempt starts only if a second is left after the pause.
    policy.refresh_timeout = 1_300 * MS;
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let parked = current_thread();
    let starter = cache.clone();
    let waiting = parked.spawn(async move { starter.token().await });
    parked.block_on(async { tokio::time::sleep(20 * MS).await });
    assert_eq!(text(&current_thread().block_on(cache.token()).unwrap()), "token");
    assert_eq!(*calls.lock().unwrap(), 2);
    // Awake again, and the pause of its own is over: others have gone on without it.
    assert_eq!(text(&parked.block_on(waiting).unwrap().unwrap()), "token");
    parked.block_on(async { tokio::time::sleep(300 * MS).await });
    assert_eq!(*calls.lock().unwrap(), 2);
}

#[test]
fn a_late_result_of_a_refresh_that_was_given_up_is_discarded() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let logs = Logs::capture();
    let first = Arc::new(Mutex::new(true));
    let source = source_fn(move |_| {
        let is_first = std::mem::take(&mut *first.lock().unwrap());
        async move {
            if is_first {
                tokio::time::sleep(50 * MS).await;
                return Token::bearer("late", DAY);
            }
            Token::bearer("in-time", DAY / 2)
        }
    });
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 200 * MS;
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let parked = current_thread();
    let starter = cache.clone();
    let late = parked.spawn(async move { starter.token().await });
    parked.block_on(async { tokio::time::sleep(10 * MS).await });
    assert_eq!(text(&current_thread().block_on(cache.token()).unwrap()), "in-time");
    // The source's own sleep is over long since: the late token arrives now.
    let told = parked.block_on(late).unwrap().expect("a token");
    assert_eq!(text(&told), "in-time");
    assert_eq!(text(&cache.current().unwrap()), "in-time");
    // And both are told as what they were.
    assert!(logs.text().contains(r#"outcome="abandoned""#));
    let counted = recorder.handle().render();
    for label in [r#"outcome="abandoned""#, r#"outcome="lost""#] {
        assert!(counted.contains(label), "{label} is not in {counted}");
    }
}

#[test]
fn a_late_result_does_not_end_the_refresh_that_came_after() {
    let (sender, called) = channel();
    let first = Mutex::new(true);
    let source = source_fn(move |_| {
        let is_first = std::mem::take(&mut *first.lock().unwrap());
        let _ = sender.send(());
        async move {
            let (pause, name) = if is_first { (50 * MS, "late") } else { (400 * MS, "in-time") };
            tokio::time::sleep(pause).await;
            Token::bearer(name, DAY)
        }
    });
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 600 * MS;
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(10 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let waiting = cache.clone();
    let waiter = thread::spawn(move || current_thread().block_on(waiting.token()));
    // The first is given up, and the second has begun.
    called.recv().unwrap();
    parked.block_on(async { tokio::time::sleep(20 * MS).await });
    assert!(cache.current().is_none() && cache.status().is_refreshing());
    assert_eq!(text(&waiter.join().unwrap().unwrap()), "in-time");
}

#[test]
fn current_thread_runtimes_and_local_sets_work() {
    for _ in 0..2 {
        let cache = TokenCache::new(ScriptedSource::granting(DAY));
        assert!(current_thread().block_on(cache.token()).is_ok());
        let cache = TokenCache::new(ScriptedSource::granting(DAY));
        let local = LocalSet::new();
        let runtime = current_thread();
        assert!(local.block_on(&runtime, cache.token()).is_ok());
        let inside = TokenCache::new(ScriptedSource::granting(DAY));
        assert!(
            local
                .block_on(&runtime, async move {
                    tokio::task::spawn_local(async move { inside.token().await }).await.unwrap()
                })
                .is_ok()
        );
    }
}

#[test]
fn outside_a_runtime_there_is_an_error_and_no_panic() {
    let cache =
        TokenCache::new(ScriptedSource::new([Step::Grant(Duration::from_secs(2))], Step::Hang));
    let Poll::Ready(Err(error)) = poll_once(cache.token()) else {
        panic!("it waits, without a runtime")
    };
    assert_eq!(error.kind(), ErrorKind::Config);
    let runtime = current_thread();
    let token = runtime.block_on(cache.token()).unwrap();
    // A token that is held needs no runtime, stale or not.
    assert!(matches!(poll_once(cache.token()), Poll::Ready(Ok(_))));
    runtime.block_on(async { tokio::time::sleep(1_650 * MS).await });
    assert!(matches!(poll_once(cache.token()), Poll::Ready(Ok(_))));
    let Poll::Ready(Err(error)) = poll_once(cache.replace(&token)) else {
        panic!("it waits, without a runtime")
    };
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn a_deadline_without_a_runtime_is_an_error_and_no_panic() {
    let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
    let client = client_with(ScriptedSource::granting(DAY), target);
    let call = || client.get("https://api.example/").timeout(MS).send();
    let Poll::Ready(Err(error)) = poll_once(call()) else { panic!("it waits, without a runtime") };
    let runtime = Builder::new_current_thread().build().unwrap();
    let without_timers = runtime.block_on(call()).expect_err("no timers");
    for error in [error, without_timers] {
        let error = auth_error(&error);
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}

#[test]
fn a_runtime_without_timers_is_an_error_and_no_panic() {
    let cache = TokenCache::new(ScriptedSource::granting(DAY));
    let runtime = Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(cache.token()).expect_err("no timers");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(crate::support::everything_said(&error).contains("enable_time"));
}

#[test]
fn renewal_on_a_runtime_without_timers_is_an_error_and_no_panic() {
    let logs = Logs::capture();
    let clock = ManualClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = TokenCache::builder(source.clone()).clock(clock.clone());
    let cache = cache.build().unwrap();
    let without_timers = Builder::new_current_thread().build().unwrap();
    without_timers.block_on(cache.keep_fresh());
    assert!(logs.text().contains("keep_fresh needs a Tokio runtime with timers"));
    assert_eq!(source.calls(), 0);

    current_thread().block_on(cache.token()).unwrap();
    clock.advance(20 * 3_600_000 * MS);
    without_timers.block_on(async {
        cache.current().expect("a stale token");
        settle().await;
    });
    let status = cache.status();
    let error = status.last_error().expect("the refresh failed");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(crate::support::everything_said(error).contains("enable_time"));
    assert_eq!(source.calls(), 1);
}

#[test]
fn who_joins_late_on_a_parked_runtime_waits_no_longer_than_the_first() {
    let (sender, called) = channel();
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 1_000 * MS;
    let cache = TokenCache::builder(hanging_once(sender)).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(20 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let begun = Instant::now();
    current_thread().block_on(async { tokio::time::sleep(800 * MS).await });
    current_thread().block_on(cache.token()).expect("a refresh elsewhere");
    assert!(begun.elapsed() < 1_600 * MS, "{:?}", begun.elapsed());
}

#[test]
fn a_runtime_that_is_shutting_down_holds_nobody() {
    struct AskWhenDropped(TokenCache, Sender<bool>);
    impl Drop for AskWhenDropped {
        fn drop(&mut self) {
            // Tasks are dropped inside the runtime that is going: what is spawned now never runs.
            let failed = futures_util::FutureExt::now_or_never(self.0.token())
                .is_none_or(|token| token.is_err());
            let _ = self.1.send(failed);
        }
    }
    let cache = TokenCache::new(ScriptedSource::granting(DAY));
    let (sender, told) = channel();
    let runtime = current_thread();
    runtime.spawn(async move {
        let _asks = AskWhenDropped(cache, sender);
        std::future::pending::<()>().await;
    });
    runtime.block_on(settle());
    drop(runtime);
    assert!(told.recv_timeout(Duration::from_secs(5)).expect("no hang"));
}
