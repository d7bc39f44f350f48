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

use sitecore_auth::{ErrorKind, ManualClock, RefreshPolicy, Target, Token, TokenCache, source_fn};
use tokio::{runtime::Builder, task::LocalSet, time::Instant};

use crate::support::{
    DAY, HOUR, Logs, MS, SECOND, ScriptedSource, Step, all_formats, auth_error, cache_of,
    client_with, settle, text,
};

pub(super) fn current_thread() -> tokio::runtime::Runtime {
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
fn a_runtime_for_each_call_does_not_cause_a_token_request_for_each_call() {
    let clock = ManualClock::new();
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Hang);
    let cache = cache_of(&source, clock.clone());
    current_thread().block_on(cache.token()).unwrap();
    clock.advance(DAY * 5 / 6);
    for _ in 0..200 {
        current_thread().block_on(async {
            assert!(cache.current().is_some());
            settle().await;
        });
        clock.advance(SECOND);
    }
    // At once, twice, and then after cooldowns of about 30 s, 60 s and 120 s.
    assert!((4..=6).contains(&(source.calls() - 1)), "{}", source.calls());
    let error = cache.status().last_error().cloned().expect("a failure");
    assert!(error.cause().contains("use one runtime for all calls"), "{error}");
}

#[test]
fn a_stale_token_is_refreshed_while_the_runtime_of_its_last_refresh_is_parked() {
    let clock = ManualClock::new();
    let source = ScriptedSource::new([Step::Grant(DAY), Step::Hang], Step::Grant(DAY));
    let cache = cache_of(&source, clock.clone());
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
    clock.advance(30 * SECOND - MS);
    call(&other);
    assert!(cache.status().last_error().is_none(), "it may still be running");
    clock.advance(MS);
    call(&other);
    // The time limit has passed, so the refresh has failed.
    let error = cache.status().last_error().cloned().expect("a failure");
    assert_eq!(error.retry_after(), Some(30 * SECOND));
    clock.advance(30 * SECOND);
    call(&other);
    assert_eq!(source.calls(), 3);
    clock.advance(HOUR / 4);
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
    let error = current_thread().block_on(cache.token()).expect_err("the time limit");
    assert!(all_formats(&error).contains("no token within 300ms"), "{error:?}");
    assert!(
        started.elapsed() >= 250 * MS && started.elapsed() < 5 * SECOND,
        "{:?}",
        started.elapsed()
    );
    // The next refresh runs on its caller's runtime.
    current_thread().block_on(async {
        tokio::time::sleep(error.retry_after().expect("a cooldown")).await;
        assert_eq!(text(&cache.token().await.expect("a refresh elsewhere")), "token");
    });
    // The parked refresh continues late and changes nothing.
    parked.block_on(async { tokio::time::sleep(10 * MS).await });
    assert_eq!(text(&cache.current().expect("a token")), "token");
}

#[test]
fn a_timer_gives_up_a_parked_refresh_even_if_the_clock_stands_still() {
    let (sender, called) = channel();
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 200 * MS;
    let builder = TokenCache::builder(hanging_once(sender)).policy(policy);
    let clock = ManualClock::new();
    let cache = builder.clock(clock.clone()).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(20 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let started = Instant::now();
    current_thread().block_on(cache.token()).expect_err("the time limit");
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
    clock.advance(2 * SECOND);
    current_thread().block_on(cache.token()).expect("a refresh elsewhere");
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
    // So does one that lasts long enough, or that is not the rejected one.
    assert!(matches!(poll_once(cache.token_valid_for(MS)), Poll::Ready(Ok(_))));
    let earlier = Token::bearer("earlier", DAY).unwrap();
    assert!(matches!(poll_once(cache.replace(&earlier)), Poll::Ready(Ok(_))));
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
fn a_runtime_without_timers_affects_no_other_runtime() {
    let logs = Logs::capture();
    let clock = ManualClock::new();
    let source = ScriptedSource::granting(DAY);
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    let without_timers = Builder::new_current_thread().build().unwrap();
    without_timers.block_on(cache.keep_fresh());
    assert!(logs.text().contains("keep_fresh needs a Tokio runtime with timers"));
    assert_eq!(source.calls(), 0);

    let runtime = current_thread();
    runtime.block_on(cache.token()).unwrap();
    clock.advance(20 * HOUR);
    without_timers.block_on(async {
        cache.current().expect("a stale token");
        settle().await;
    });
    // It starts no refresh, so it causes no cooldown either.
    assert!(cache.status().last_error().is_none());
    assert_eq!(source.calls(), 1);
    runtime.block_on(async {
        cache.current().expect("a stale token");
        settle().await;
    });
    assert_eq!(source.calls(), 2);
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
    current_thread().block_on(cache.token()).expect_err("the time limit");
    assert!(started.elapsed() < 1_600 * MS, "{:?}", started.elapsed());
}

#[test]
fn a_caller_may_move_to_another_runtime_while_it_waits() {
    let (sender, called) = channel();
    let cache = TokenCache::new(hanging_once(sender));
    let mut caller = Box::pin(cache.token());
    let first = current_thread();
    first.block_on(async {
        assert!(futures_util::poll!(&mut caller).is_pending());
        settle().await;
    });
    called.recv().unwrap();
    drop(first);
    let token = current_thread().block_on(caller).expect("a refresh on the second runtime");
    assert_eq!(text(&token), "token");
}

#[test]
fn a_settled_token_is_not_withheld_while_another_thread_has_the_lock() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for _ in 0..200 {
        let clock = ManualClock::new();
        let source = ScriptedSource::granting(DAY);
        let cache = cache_of(&source, clock.clone());
        runtime.block_on(cache.token()).unwrap();
        clock.advance(20 * HOUR);
        runtime.block_on(async {
            while source.calls() < 2 || cache.status().is_refreshing() {
                cache.current().expect("a stale token");
                tokio::task::yield_now().await;
            }
        });
        // The previous token expires, and many callers come at once.
        clock.advance(4 * HOUR);
        let start = Arc::new(std::sync::Barrier::new(4));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (cache, start) = (cache.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    cache.current()
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(text(&thread.join().unwrap().expect("a token")), "token-2");
        }
    }
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
