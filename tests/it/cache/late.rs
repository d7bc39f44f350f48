//! Results that arrive late, tasks that start late, and processes that stand still: real runtimes and
//! real time, but no sockets.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
};

use metrics_exporter_prometheus::PrometheusBuilder;
use sitecore_auth::{
    Backoff, Error, ErrorKind, ManualClock, RefreshPolicy, Token, TokenCache, source_fn,
};
use tokio::{runtime::Builder, time::Instant};

use super::runtimes::current_thread;
use crate::support::{
    DAY, HOUR, Logs, MS, SECOND, ScriptedSource, Step, all_formats, settle, spawn, text,
};

/// Returns a source whose first call signals `called`, takes 50 ms, and returns the token "late".
fn slow_once(called: Sender<()>) -> impl sitecore_auth::TokenSource {
    let first = Mutex::new(true);
    source_fn(move |_| {
        let is_first = std::mem::take(&mut *first.lock().unwrap());
        let _ = called.send(());
        async move {
            let (pause, name) = if is_first { (50 * MS, "late") } else { (400 * MS, "in-time") };
            tokio::time::sleep(pause).await;
            Token::bearer(name, DAY)
        }
    })
}

#[test]
fn a_token_that_arrives_after_its_refresh_has_timed_out_is_used() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let (sender, called) = channel();
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 200 * MS;
    let cache = TokenCache::builder(slow_once(sender)).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(10 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    current_thread().block_on(cache.token()).expect_err("the time limit");
    assert!(cache.status().last_error().is_some());
    // The source's sleep has long ended, so the token arrives now.
    parked.block_on(async { tokio::time::sleep(10 * MS).await });
    assert_eq!(text(&cache.current().expect("a token")), "late");
    // It proves that the issuer works, so the cooldown has ended.
    assert!(cache.status().last_error().is_none());
    assert_eq!(cache.status().token_requests(), 1);
}

#[test]
fn a_failure_that_arrives_after_its_refresh_has_timed_out_is_ignored() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&recorder);
    let logs = Logs::capture();
    let (sender, called) = channel();
    let source = source_fn(move |_| {
        let _ = sender.send(());
        async {
            tokio::time::sleep(50 * MS).await;
            Err::<Token, _>(Error::new(ErrorKind::Refused, "too late"))
        }
    });
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 200 * MS;
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(10 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    current_thread().block_on(cache.token()).expect_err("the time limit");
    parked.block_on(async { tokio::time::sleep(10 * MS).await });
    let error = cache.status().last_error().cloned().expect("the timeout");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(logs.text().contains(r#"outcome="abandoned""#));
    let counted = recorder.handle().render();
    assert!(counted.contains(r#"outcome="abandoned""#), "{counted}");
}

#[test]
fn a_late_token_does_not_end_the_next_refresh() {
    let (sender, called) = channel();
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 600 * MS;
    policy.cooldown_without_token = Backoff::new(MS, MS);
    let cache = TokenCache::builder(slow_once(sender)).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(10 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let waiting = cache.clone();
    let waiter = thread::spawn(move || {
        current_thread().block_on(async {
            waiting.token().await.expect_err("the time limit");
            tokio::time::sleep(20 * MS).await;
            let token = waiting.token().await;
            // Keeps the runtime of the second refresh alive.
            tokio::time::sleep(500 * MS).await;
            token
        })
    });
    // The first refresh has timed out, and the second one has started.
    called.recv().unwrap();
    parked.block_on(async { tokio::time::sleep(20 * MS).await });
    assert_eq!(text(&cache.current().expect("the late token")), "late");
    assert!(cache.status().is_refreshing());
    let token = waiter.join().unwrap().unwrap();
    assert_eq!(text(&token), "late");
    assert_eq!(cache.status().token_requests(), 2);
}

#[test]
fn a_late_token_goes_to_the_waiters_of_the_next_refresh_too() {
    let (sender, called) = channel();
    let first = Mutex::new(true);
    let source = source_fn(move |_| {
        let is_first = std::mem::take(&mut *first.lock().unwrap());
        let _ = sender.send(());
        async move {
            if !is_first {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(50 * MS).await;
            Token::bearer("late", DAY)
        }
    });
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 800 * MS;
    policy.cooldown_without_token = Backoff::new(MS, MS);
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let parked = current_thread();
    parked.block_on(async {
        let _ = tokio::time::timeout(10 * MS, cache.token()).await;
    });
    called.recv().unwrap();
    let waiter = thread::spawn(move || {
        current_thread().block_on(async {
            cache.token().await.expect_err("the time limit");
            tokio::time::sleep(20 * MS).await;
            cache.token().await
        })
    });
    called.recv().unwrap();
    // The second refresh hangs.
    parked.block_on(async { tokio::time::sleep(20 * MS).await });
    assert_eq!(text(&waiter.join().unwrap().expect("the late token")), "late");
}

#[test]
fn the_first_call_after_a_freeze_gets_a_token() {
    // The clock jumps in a way that only a frozen or suspended process sees.
    let freezes: [fn(&ManualClock); 2] = [|clock| clock.advance(HOUR), |clock| clock.suspend(HOUR)];
    for freeze in freezes {
        let clock = ManualClock::new();
        // The connection is lost in the freeze, so the first call fails.
        let lost = Step::SlowFail(50 * MS, ErrorKind::Unavailable);
        let source = ScriptedSource::new([lost], Step::Grant(DAY));
        let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
        let token = current_thread().block_on(async {
            let caller = cache.token();
            tokio::pin!(caller);
            assert!(futures_util::poll!(&mut caller).is_pending());
            settle().await;
            freeze(&clock);
            caller.await
        });
        assert_eq!(text(&token.expect("another refresh")), "token-1");
        assert_eq!(source.calls(), 2);
        assert!(cache.status().last_error().is_none());
    }
}

#[test]
fn callers_give_up_if_the_process_stands_still_again_and_again() {
    let clock = ManualClock::new();
    let frozen = clock.clone();
    let source = source_fn(move |_| {
        frozen.advance(HOUR);
        async { Err::<Token, _>(Error::new(ErrorKind::Unavailable, "reset")) }
    });
    let cache = TokenCache::builder(source).clock(clock).build().unwrap();
    let error = current_thread().block_on(cache.token()).expect_err("two lost refreshes");
    assert!(all_formats(&error).contains("reset") && error.retry_after().is_some(), "{error:?}");
    assert_eq!(cache.status().token_requests(), 2);
}

#[test]
fn the_time_limit_counts_from_the_call_even_if_the_task_starts_late() {
    let (sender, called) = channel();
    let source = source_fn(move |context| {
        let _ = sender.send(context.time_left());
        async {
            tokio::time::sleep(300 * MS).await;
            Token::bearer("token", DAY)
        }
    });
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 2 * SECOND;
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let token = current_thread().block_on(async {
        let first = spawn({
            let cache = cache.clone();
            async move { cache.token().await }
        });
        let second = cache.token();
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        // The runtime is busy, so the task of the refresh is first polled after this.
        #[expect(clippy::disallowed_methods, reason = "a busy runtime")]
        thread::sleep(500 * MS);
        let token = second.await.expect("a token");
        assert_eq!(text(&first.await.unwrap().expect("the same token")), text(&token));
        token
    });
    assert_eq!(text(&token), "token");
    let left = called.recv().unwrap();
    assert!(left <= 1_500 * MS, "the time limit counts from the first poll: {left:?}");
    assert_eq!(cache.status().token_requests(), 1);
}

#[test]
fn a_refresh_that_was_given_up_makes_no_more_token_requests() {
    let calls = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        *counter.lock().unwrap() += 1;
        // Short enough to be waited for within the refresh.
        let error = Error::new(ErrorKind::Unavailable, "scripted").with_retry_after(150 * MS);
        async move { Err(error) }
    });
    let mut policy = RefreshPolicy::default();
    // An attempt starts only if a second is left after the wait.
    policy.refresh_timeout = 1_300 * MS;
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let parked = current_thread();
    let starter = cache.clone();
    let waiting = parked.spawn(async move { starter.token().await });
    parked.block_on(async { tokio::time::sleep(20 * MS).await });
    current_thread().block_on(cache.token()).expect_err("the time limit");
    // The parked refresh continues after its wait, but it has failed in the meantime.
    parked.block_on(waiting).unwrap().expect_err("the same failure");
    parked.block_on(async { tokio::time::sleep(300 * MS).await });
    assert_eq!(*calls.lock().unwrap(), 1);
}

#[test]
fn a_source_that_blocks_its_thread_costs_one_thread_and_its_callers_get_an_error() {
    let (release, blocked) = channel::<()>();
    let blocked = Mutex::new(blocked);
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let source = source_fn(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        let _ = blocked.lock().unwrap().recv();
        async { Token::bearer("token", DAY) }
    });
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 300 * MS;
    policy.cooldown_without_token = Backoff::new(HOUR, HOUR);
    let cache = TokenCache::builder(source).policy(policy).build().unwrap();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let started = Instant::now();
    for _ in 0..10 {
        let error = runtime.block_on(cache.token()).expect_err("the time limit");
        assert!(error.retry_after().is_some(), "a cooldown: {error:?}");
    }
    // One refresh, which the first caller waited for. The others failed at once.
    assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    drop(release);
}
