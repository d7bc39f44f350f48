//! Lost, parked and missing runtimes: real runtimes and real time, but no sockets.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    task::{Context, Poll, Waker},
    thread,
};

use metrics_exporter_prometheus::PrometheusBuilder;
use sitecore_auth::{
    Error, ErrorKind, ManualClock, RefreshPolicy, Target, Token, TokenCache, source_fn,
};
use tokio::{runtime::Builder, task::LocalSet, time::Instant};

use crate::support::{
    DAY, HOUR, Logs, MS, SECOND, ScriptedSource, Step, all_formats, auth_error, client_with,
    settle, text,
};

fn current_thread() -> tokio::runtime::Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Polls once, outside any runtime.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = std::pin::pin!(future);
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Returns a source whose first call signals `called` and hangs. Later calls return a token.
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
fn a_cache_outlives_the_runtime_that_ran_its_refresh() {
    let (sender, called) = channel();
    let cache = TokenCache::new(hanging_once(sender));
    let lost = current_thread();
    let waited = lost.block_on(async { tokio::time::timeout(20 * MS, cache.token()).await });
    assert!(waited.is_err());
    called.recv().unwrap();
    drop(lost);
    // Nothing informs the cache; it must notice by itself, at once.
    let started = Instant::now();
    let token = current_thread().block_on(cache.token()).expect("a new refresh on the new runtime");
    assert_eq!(text(&token), "token");
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
}

#[test]
fn a_waiter_starts_another_refresh_when_the_runtime_dies() {
    let (sender, called) = channel();
    let cache = TokenCache::new(hanging_once(sender));
    let lost = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let starter = cache.clone();
    lost.spawn(async move { starter.token().await });
    called.recv().unwrap();
    let waiter = thread::spawn(move || current_thread().block_on(cache.token()));
    // By then the waiter is almost certainly waiting. If not, the result must be the same.
    #[expect(clippy::disallowed_methods, reason = "gives the other thread time to start waiting")]
    thread::sleep(50 * MS);
    lost.shutdown_background();
    assert_eq!(text(&waiter.join().unwrap().expect("a token")), "token");
}

#[test]
fn a_stale_token_is_refreshed_after_a_runtime_died_with_its_refresh() {
    let source = ScriptedSource::new([Step::Grant(2 * SECOND), Step::Hang], Step::Grant(DAY));
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
fn a_stale_token_is_refreshed_while_the_runtime_of_its_last_refresh_is_parked() {
    let clock = ManualClock::new();
    let source = ScriptedSource::new([Step::Grant(DAY), Step::Hang], Step::Grant(DAY));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    let call = |runtime: &tokio::runtime::Runtime| {
        runtime.block_on(async {
            assert!(cache.current().is_some());
            settle().await;
        });
    };
    let (parked, other) = (current_thread(), current_thread());
    parked.block_on(cache.token()).unwrap();
    clock.advance(DAY * 5 / 6);
    call(&parked);
    assert_eq!(source.calls(), 2);
    clock.advance(30 * SECOND);
    call(&other);
    assert_eq!(source.calls(), 2, "it may still be running");
    clock.advance(2 * SECOND);
    call(&other);
    assert_eq!(source.calls(), 3);
    assert_eq!(text(&cache.current().unwrap()), "token-2");
}

#[test]
fn a_parked_runtime_delays_no_caller_beyond_the_refresh_timeout() {
    let (sender, called) = channel();
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 300 * MS;
    let cache = TokenCache::builder(hanging_once(sender)).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        // Starts the refresh and runs it up to its first wait. Then the runtime is parked.
        let _ = tokio::time::timeout(20 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let started = Instant::now();
    let token = current_thread().block_on(cache.token()).expect("a refresh elsewhere");
    assert_eq!(text(&token), "token");
    assert!(
        started.elapsed() >= 250 * MS && started.elapsed() < 5 * SECOND,
        "{:?}",
        started.elapsed()
    );
    // The parked refresh continues late and changes nothing.
    parked.block_on(async { tokio::time::sleep(10 * MS).await });
    assert_eq!(text(&cache.current().expect("a token")), "token");
}

#[test]
fn a_timer_abandons_a_parked_refresh_even_if_the_clock_stands_still() {
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
    let started = Instant::now();
    current_thread().block_on(cache.token()).expect("a refresh elsewhere");
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
}

#[test]
fn an_abandoned_refresh_makes_no_more_token_requests() {
    let calls = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        let mut calls = counter.lock().unwrap();
        *calls += 1;
        let first = *calls == 1;
        async move {
            if first {
                // Short enough to be waited for within the refresh.
                return Err(
                    Error::new(ErrorKind::Unavailable, "scripted").with_retry_after(150 * MS)
                );
            }
            Token::bearer("token", DAY)
        }
    });
    let mut policy = RefreshPolicy::default();
    // An attempt starts only if a second is left after the wait.
    policy.refresh_timeout = 1_300 * MS;
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let parked = current_thread();
    let starter = cache.clone();
    let waiting = parked.spawn(async move { starter.token().await });
    parked.block_on(async { tokio::time::sleep(20 * MS).await });
    assert_eq!(text(&current_thread().block_on(cache.token()).unwrap()), "token");
    assert_eq!(*calls.lock().unwrap(), 2);
    // The parked refresh continues after its wait, but another one has replaced it.
    assert_eq!(text(&parked.block_on(waiting).unwrap().unwrap()), "token");
    parked.block_on(async { tokio::time::sleep(300 * MS).await });
    assert_eq!(*calls.lock().unwrap(), 2);
}

#[test]
fn a_late_result_of_an_abandoned_refresh_is_discarded() {
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
    // The source's sleep has long ended, so the late token arrives now.
    let token = parked.block_on(late).unwrap().expect("a token");
    assert_eq!(text(&token), "in-time");
    assert_eq!(text(&cache.current().unwrap()), "in-time");
    // The abandoned refresh and the lost wait are reported as such.
    assert!(logs.text().contains(r#"outcome="abandoned""#));
    let counted = recorder.handle().render();
    for label in [r#"outcome="abandoned""#, r#"outcome="lost""#] {
        assert!(counted.contains(label), "{label} is not in {counted}");
    }
}

#[test]
fn a_late_result_does_not_end_the_next_refresh() {
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
    // The first refresh is abandoned, and the second one has started.
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
fn a_call_outside_a_runtime_is_an_error_not_a_panic() {
    let cache = TokenCache::new(ScriptedSource::new([Step::Grant(2 * SECOND)], Step::Hang));
    let Poll::Ready(Err(error)) = poll_once(cache.token()) else {
        panic!("it waits without a runtime")
    };
    assert_eq!(error.kind(), ErrorKind::Config);
    let runtime = current_thread();
    let token = runtime.block_on(cache.token()).unwrap();
    // A usable token needs no runtime, whether fresh or stale.
    assert!(matches!(poll_once(cache.token()), Poll::Ready(Ok(_))));
    runtime.block_on(async { tokio::time::sleep(1_650 * MS).await });
    assert!(matches!(poll_once(cache.token()), Poll::Ready(Ok(_))));
    let Poll::Ready(Err(error)) = poll_once(cache.replace(&token)) else {
        panic!("it waits without a runtime")
    };
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn a_deadline_without_a_runtime_is_an_error_not_a_panic() {
    let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
    let client = client_with(ScriptedSource::granting(DAY), target);
    let call = || client.get("https://api.example/").timeout(MS).send();
    let Poll::Ready(Err(error)) = poll_once(call()) else { panic!("it waits without a runtime") };
    let runtime = Builder::new_current_thread().build().unwrap();
    let without_timers = runtime.block_on(call()).expect_err("no timers");
    for error in [error, without_timers] {
        let error = auth_error(&error);
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}

#[test]
fn a_runtime_without_timers_is_an_error_not_a_panic() {
    let cache = TokenCache::new(ScriptedSource::granting(DAY));
    let runtime = Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(cache.token()).expect_err("no timers");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(all_formats(&error).contains("enable_time"));
}

#[test]
fn refreshing_on_a_runtime_without_timers_is_an_error_not_a_panic() {
    let logs = Logs::capture();
    let clock = ManualClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    let without_timers = Builder::new_current_thread().build().unwrap();
    without_timers.block_on(cache.keep_fresh());
    assert!(logs.text().contains("keep_fresh needs a Tokio runtime with timers"));
    assert_eq!(source.calls(), 0);

    current_thread().block_on(cache.token()).unwrap();
    clock.advance(20 * HOUR);
    without_timers.block_on(async {
        cache.current().expect("a stale token");
        settle().await;
    });
    let status = cache.status();
    let error = status.last_error().expect("the refresh failed");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(all_formats(error).contains("enable_time"));
    assert_eq!(source.calls(), 1);
}

#[test]
fn a_caller_that_joins_a_parked_refresh_late_waits_no_longer_than_the_first() {
    let (sender, called) = channel();
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = SECOND;
    let cache = TokenCache::builder(hanging_once(sender)).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(20 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let started = Instant::now();
    current_thread().block_on(async { tokio::time::sleep(800 * MS).await });
    current_thread().block_on(cache.token()).expect("a refresh elsewhere");
    assert!(started.elapsed() < 1_600 * MS, "{:?}", started.elapsed());
}

#[test]
fn a_runtime_that_is_shutting_down_blocks_no_caller() {
    struct CallWhenDropped(TokenCache, Sender<bool>);
    impl Drop for CallWhenDropped {
        fn drop(&mut self) {
            // The task is dropped while its runtime shuts down: what it spawns now never runs.
            let failed = futures_util::FutureExt::now_or_never(self.0.token())
                .is_none_or(|token| token.is_err());
            let _ = self.1.send(failed);
        }
    }
    let cache = TokenCache::new(ScriptedSource::granting(DAY));
    let (sender, failed) = channel();
    let runtime = current_thread();
    runtime.spawn(async move {
        let _calls = CallWhenDropped(cache, sender);
        std::future::pending::<()>().await;
    });
    runtime.block_on(settle());
    drop(runtime);
    assert!(failed.recv_timeout(5 * SECOND).expect("no hang"));
}
