//! One token for many processes, simulated in one process. Each source stands for one of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::json;
use sitecore_auth::{
    ClientCredentials, Error, ErrorKind, FetchContext, ManualClock, RefreshPolicy, Result,
    SharingKey, Token, TokenCache, TokenClient, TokenSource,
};
use sitecore_token_store::{Lease, MemoryStore, SharedSource, Stored, TokenStore};
use wiremock::ResponseTemplate;

use crate::support::{
    ByLease, DAY, FLEET_SECRET, MINUTE, Memory, PausedClock, SECOND, ScriptedSource, Step, Tied,
    all_formats, caches, client_of, first_fetch, requests, serve, shared, text,
};

#[tokio::test(start_paused = true)]
async fn a_hundred_cold_starts_cost_one_token_request() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(100, &source, &store, &clock);
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(|token| text(token.as_ref().unwrap()) == "token-1"));
    assert_eq!(source.calls(), 1);
    // Caches that start later adopt the token with its age.
    clock.wall_forward(Duration::from_secs(3_600));
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let late = &self::caches(1, &source, &store, &clock)[0];
    late.token().await.unwrap();
    let age = late.status().age().unwrap();
    assert!(age >= Duration::from_secs(3_600), "{age:?}");
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_processes_make_at_most_one_and_a_half_token_requests_a_day() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(100, &source, &store, &clock);
    let days = 10;
    // Each cache is used every ten minutes, and waits only for the first token.
    for _ in 0..days * 144 {
        let started = tokio::time::Instant::now();
        join_all(caches.iter().map(TokenCache::token)).await;
        assert!(started.elapsed().is_zero() || source.calls() == 1);
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    assert!(source.calls() <= days * 3 / 2, "{}", source.calls());
    assert!(source.calls() >= days, "{}", source.calls());
}

#[tokio::test(start_paused = true)]
async fn caches_with_one_shared_source_share_failures_like_processes() {
    let mut calls = Vec::new();
    for has_one_source in [true, false] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        let source = ScriptedSource::new([], Step::Fail(ErrorKind::Unavailable));
        let new_source = || shared(&source, store.clone()).with_clock(clock.clone());
        let one = Arc::new(new_source());
        let caches: Vec<_> = (0..10)
            .map(|_| {
                let shared = if has_one_source { Arc::clone(&one) } else { Arc::new(new_source()) };
                TokenCache::builder(shared).clock(clock.clone()).build().unwrap()
            })
            .collect();
        let results = join_all(caches.iter().map(TokenCache::token)).await;
        assert!(results.iter().all(Result::is_err));
        calls.push(source.calls());
    }
    // Three for the refresh that all share, and some by chance. Each on its own would make three.
    assert!(calls.iter().all(|calls| *calls < 12), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn if_the_store_is_down_or_hangs_each_process_requests_its_own_token() {
    for hangs in [false, true] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        store.is_down.store(!hangs, Ordering::SeqCst);
        store.hangs.store(hangs, Ordering::SeqCst);
        let source = ScriptedSource::granting(DAY);
        let caches = caches(10, &source, &store, &clock);
        let started = tokio::time::Instant::now();
        let tokens = join_all(caches.iter().map(TokenCache::token)).await;
        assert!(tokens.iter().all(Result::is_ok));
        assert!(started.elapsed() <= SECOND * 11 / 10, "{:?}", started.elapsed());
        // Each requests its own token, but not all at the same moment.
        let times = source.call_times();
        assert_eq!(times.len(), 10);
        assert!(
            times.iter().max().unwrap().duration_since(*times.iter().min().unwrap())
                > Duration::from_millis(50)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_waits_for_an_unresponsive_holder_requests_a_token_in_time() {
    for refresh_timeout in [30 * SECOND, 10 * SECOND] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        store.is_leased.store(true, Ordering::SeqCst);
        let source = ScriptedSource::granting(DAY);
        let mut policy = RefreshPolicy::default();
        policy.refresh_timeout = refresh_timeout;
        let shared = shared(&source, store.clone()).with_clock(clock.clone());
        let cache = TokenCache::builder(shared).policy(policy).clock(clock).build().unwrap();
        let started = tokio::time::Instant::now();
        cache.token().await.unwrap();
        let elapsed = started.elapsed();
        let range = refresh_timeout * 6 / 10..refresh_timeout * 8 / 10;
        assert!(range.contains(&elapsed), "{elapsed:?}");
        // The token is saved for the others.
        assert_eq!((source.calls(), store.entries.lock().unwrap().len()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn processes_that_wait_for_an_unresponsive_holder_do_not_all_request_a_token() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    store.is_leased.store(true, Ordering::SeqCst);
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(50, &source, &store, &clock);
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(Result::is_ok));
    assert!(source.calls() < 35, "{} token requests", source.calls());
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_an_owner_delays_the_others_for_five_seconds_at_most() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    // Killed, frozen or without the response: it neither extends nor releases its lease.
    let gone = shared(&source, store.clone());
    let name = gone.entry_name().await.unwrap();
    store.try_lease(&name, 5 * SECOND).await.unwrap().unwrap();
    let caches = caches(40, &source, &store, &clock);
    let started = tokio::time::Instant::now();
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(Result::is_ok));
    assert_eq!(source.calls(), 1);
    let elapsed = started.elapsed();
    assert!((5 * SECOND..7 * SECOND).contains(&elapsed), "{elapsed:?}");
    assert!(store.is_free());
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_dropped_loses_its_lease_within_five_seconds() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([Step::Hang], Step::Grant(DAY));
    let dropped = shared(&source, store.clone()).with_clock(clock.clone());
    let dropped = tokio::time::timeout(8 * SECOND, dropped.fetch(first_fetch()));
    dropped.await.unwrap_err();
    assert!(!store.is_free(), "it was extended as long as the request took");
    let started = tokio::time::Instant::now();
    caches(1, &source, &store, &clock)[0].token().await.unwrap();
    assert!(started.elapsed() <= 5 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_token_request_of_twenty_seconds_is_shared_too() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([], Step::Slow(20 * SECOND, DAY));
    let caches = caches(40, &source, &store, &clock);
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(|token| text(token.as_ref().unwrap()) == "token-1"));
    assert!(store.is_free());
    // Those whose time was short began a token request, but took the holder's token.
    assert!(source.calls() <= 3, "{} token requests", source.calls());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stalls_or_restarts_while_many_wait_costs_two_token_requests_at_most() {
    for loses_data in [false, true] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        let source = ScriptedSource::new([], Step::Slow(4 * SECOND, DAY));
        let caches = caches(40, &source, &store, &clock);
        let trouble = async {
            tokio::time::sleep(2 * SECOND + SECOND / 2).await;
            match loses_data {
                true => store.is_down.store(true, Ordering::SeqCst),
                false => store.hangs.store(true, Ordering::SeqCst),
            }
            tokio::time::sleep(SECOND * 4 / 10).await;
            if loses_data {
                store.entries.lock().unwrap().clear();
                store.leases.lock().unwrap().clear();
            }
            store.is_down.store(false, Ordering::SeqCst);
            store.hangs.store(false, Ordering::SeqCst);
        };
        let (tokens, ()) = tokio::join!(join_all(caches.iter().map(TokenCache::token)), trouble);
        assert!(tokens.iter().all(Result::is_ok));
        let most = if loses_data { 2 } else { 1 };
        assert!(source.calls() <= most, "{} token requests", source.calls());
        let late = &self::caches(1, &source, &store, &clock)[0];
        late.token().await.unwrap();
        assert!(source.calls() <= most, "the token is in the store");
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_once_is_repeated() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([], Step::Slow(4 * SECOND, DAY));
    let cache = &caches(1, &source, &store, &clock)[0];
    let trouble = async {
        tokio::time::sleep(4 * SECOND - SECOND / 10).await;
        store.hangs.store(true, Ordering::SeqCst);
        tokio::time::sleep(SECOND * 4 / 10).await;
        store.hangs.store(false, Ordering::SeqCst);
    };
    let (token, ()) = tokio::join!(cache.token(), trouble);
    token.unwrap();
    caches(1, &source, &store, &clock)[0].token().await.unwrap();
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_arrives_late_is_not_lost_because_it_cannot_be_saved() {
    for has_lease in [true, false] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        store.is_down.store(!has_lease, Ordering::SeqCst);
        // The refresh has a second left when the token arrives.
        let source = ScriptedSource::new([], Step::Slow(29 * SECOND, DAY));
        let cache = &caches(1, &source, &store, &clock)[0];
        let trouble = async {
            tokio::time::sleep(28 * SECOND).await;
            store.hangs.store(true, Ordering::SeqCst);
        };
        let (token, ()) = tokio::join!(cache.token(), trouble);
        assert_eq!(text(&token.unwrap()), "token-1");
        assert_eq!(source.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_grants_leases_but_accepts_no_entry_is_as_good_as_none() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    store.is_full.store(true, Ordering::SeqCst);
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(40, &source, &store, &clock);
    let started = tokio::time::Instant::now();
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(Result::is_ok));
    // One second for the token request, and little more.
    let elapsed = started.elapsed();
    assert!(elapsed < 2 * SECOND, "{elapsed:?}");
    assert_eq!(source.calls(), 40);
    // For a while, the lease is not even tried.
    let calls = store.calls.load(Ordering::SeqCst);
    let old = caches[0].token().await.unwrap();
    caches[0].replace(&old).await.unwrap();
    assert_eq!(store.calls.load(Ordering::SeqCst) - calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_went_on_alone_looks_once_more_and_saves_its_token() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::granting(DAY);
    // The store fails at the first look only.
    store.is_down.store(true, Ordering::SeqCst);
    let caches = caches(2, &source, &store, &clock);
    let heal = async {
        while store.calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        store.is_down.store(false, Ordering::SeqCst);
    };
    let (first, ()) = tokio::join!(caches[0].token(), heal);
    assert_eq!(text(&first.unwrap()), text(&caches[1].token().await.unwrap()));
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_processes_share_one_budget_for_rejected_tokens() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::granting(DAY);
    let caches = caches(100, &source, &store, &clock);
    // Every call of every process is rejected, for half a day.
    for minute in 0..12 * 60 {
        for cache in caches.iter().skip(minute % 7).step_by(7) {
            if let Ok(token) = cache.token().await {
                let _ = cache.replace(&token).await;
            }
        }
        tokio::time::sleep(60 * SECOND).await;
    }
    // The first token, six in a burst, and one an hour.
    assert!(source.calls() <= 1 + 6 + 12, "{} token requests", source.calls());
    assert!(source.calls() >= 12, "{} token requests", source.calls());
}

#[tokio::test(start_paused = true)]
async fn a_replacement_uses_the_budget_even_if_another_process_saves_a_newer_token() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let slow = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(3 * SECOND, DAY));
    let quick = shared(&ScriptedSource::granting(DAY), store.clone()).with_clock(clock.clone());
    for round in 0..7 {
        // A job that is cold, so that only the budget limits its replacement.
        let cache = &caches(1, &slow, &store, &clock)[0];
        let old = cache.token().await.unwrap();
        // This process does not wait for the lease holder as long as its token request takes.
        let hurried = FetchContext::new(2 * SECOND).with_replacing(&old, true);
        let (replaced, newer) = tokio::join!(cache.replace(&old), quick.fetch(hurried));
        newer.unwrap();
        assert_eq!(replaced.is_ok(), round < 6, "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_says_when_to_try_again_and_starts_no_cooldown() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::granting(DAY);
    for round in 0..=6 {
        let cache = &caches(1, &source, &store, &clock)[0];
        let old = cache.token().await.unwrap();
        let replaced = cache.replace(&old).await;
        assert_eq!(replaced.is_ok(), round < 6, "{round}");
        if let Err(error) = replaced {
            let wait = error.retry_after().unwrap();
            assert!(wait > 59 * MINUTE && wait < 61 * MINUTE, "{wait:?}");
            assert!(cache.status().last_error().is_none());
            assert_eq!(text(&cache.token().await.unwrap()), text(&old));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_of_a_token_counts_from_the_call_that_waited_for_it() {
    for holder_responds in [true, false] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        store.is_leased.store(true, Ordering::SeqCst);
        let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
        let cache = &caches(1, &source, &store, &clock)[0];
        let others = shared(&source, store.clone()).with_clock(clock.clone());
        let holder = async {
            tokio::time::sleep(15 * SECOND).await;
            if holder_responds {
                store.is_leased.store(false, Ordering::SeqCst);
                others.fetch(first_fetch()).await.unwrap();
            }
        };
        let (token, ()) = tokio::join!(cache.token(), holder);
        let age = cache.status().age().unwrap();
        assert!(token.is_ok() && age <= 24 * SECOND, "{age:?}");
        assert_eq!(source.calls(), 1);
    }
}

#[tokio::test]
async fn a_token_granted_while_the_secret_changed_is_not_saved() {
    struct ChangesSecret(ScriptedSource, AtomicBool);
    #[async_trait]
    impl TokenSource for ChangesSecret {
        async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
            self.1.store(true, Ordering::SeqCst);
            self.0.fetch(context).await
        }
        async fn sharing_key(&self) -> Result<Option<SharingKey>> {
            let new = "another-secret-of-thirty-two-bytes-and-more";
            let is_new = self.1.load(Ordering::SeqCst);
            let secret = if is_new { new } else { FLEET_SECRET };
            Ok(Some(SharingKey::new(secret, "context")))
        }
    }
    let (store, source) = (Memory::default(), ScriptedSource::granting(DAY));
    let changing = ChangesSecret(source.clone(), AtomicBool::new(false));
    let changing = SharedSource::new(changing, store.clone()).unwrap();
    changing.fetch(first_fetch()).await.unwrap();
    // A process with the old secret finds no token.
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 2);
    // A token granted with the new secret is saved.
    changing.fetch(first_fetch()).await.unwrap();
    changing.fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 3);
}

#[tokio::test]
async fn a_rejected_token_is_replaced_by_one_with_a_shorter_lifetime() {
    let (store, source) =
        (Memory::default(), ScriptedSource::new([Step::Grant(DAY)], Step::Grant(DAY / 24)));
    let clock = ManualClock::new();
    let caches: Vec<_> = (0..10)
        .map(|_| {
            let shared = shared(&source, store.clone()).with_clock(clock.clone());
            TokenCache::builder(shared).clock(clock.clone()).build().unwrap()
        })
        .collect();
    let old = join_all(caches.iter().map(TokenCache::token)).await.remove(0).unwrap();
    clock.advance(SECOND);
    for cache in &caches {
        assert_eq!(text(&cache.replace(&old).await.unwrap()), "token-2");
    }
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_saved_just_before_the_lease_was_acquired_is_adopted() {
    let (store, source) = (Memory::default(), ScriptedSource::granting(DAY));
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    let saved = std::mem::take(&mut *store.entries.lock().unwrap());
    *store.by_lease.lock().unwrap() = Some(ByLease::Saved(saved));
    let token = shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert_eq!((text(&token), source.calls()), ("token-1".to_owned(), 1));
    assert!(store.is_free(), "the lease was released");
    // A stored token is adopted even if another process has the lease.
    store.is_leased.store(true, Ordering::SeqCst);
    let started = tokio::time::Instant::now();
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert!(started.elapsed().is_zero());
    store.is_leased.store(false, Ordering::SeqCst);

    // If the store goes down at that moment, the process makes a token request of its own.
    store.entries.lock().unwrap().clear();
    *store.by_lease.lock().unwrap() = Some(ByLease::Down);
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_token_request_replaces_a_rejected_token_for_all_processes() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::granting(DAY);
    let caches = caches(20, &source, &store, &clock);
    let old = join_all(caches.iter().map(TokenCache::token)).await.remove(0).unwrap();
    let tokens = join_all(caches.iter().map(|cache| cache.replace(&old))).await;
    assert!(tokens.iter().all(|token| text(token.as_ref().unwrap()) == "token-2"));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_starts_a_new_entry() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let (old, new) = (ScriptedSource::granting(DAY), ScriptedSource::granting(DAY));
    let rotated = Tied(new.clone(), "another-secret-of-thirty-two-bytes-and-more");
    for source in [Tied(old.clone(), FLEET_SECRET), rotated] {
        for _ in 0..3 {
            let shared = SharedSource::new(source.clone(), store.clone()).unwrap();
            shared.with_clock(clock.clone()).fetch(first_fetch()).await.unwrap();
        }
    }
    assert_eq!((old.calls(), new.calls(), store.entries.lock().unwrap().len()), (1, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_altered_truncated_or_foreign_entry_counts_as_missing_and_is_overwritten() {
    let clock = PausedClock::new();
    let (name, entry) = {
        let store = Memory::default();
        shared(&ScriptedSource::granting(DAY), store.clone()).fetch(first_fetch()).await.unwrap();
        let entries = store.entries.lock().unwrap().clone();
        entries.into_iter().next().unwrap()
    };
    assert!(!entry.windows(5).any(|bytes| bytes == b"token"));
    let altered = (0..entry.len()).map(|position| {
        let mut altered = entry.clone();
        altered[position] ^= 1 << (position % 8);
        altered
    });
    let truncated = (0..entry.len()).map(|length| entry[..length].to_vec());
    for bad in altered.chain(truncated).step_by(13) {
        let (store, source) = (Memory::default(), ScriptedSource::granting(DAY));
        store.entries.lock().unwrap().insert(name.clone(), bad.clone());
        shared(&source, store.clone())
            .with_clock(clock.clone())
            .fetch(first_fetch())
            .await
            .unwrap();
        assert_eq!(source.calls(), 1, "the entry was adopted");
        assert_ne!(store.entries.lock().unwrap()[&name], bad);
    }
    // An entry of another name counts as missing too.
    let (store, source) = (Memory::default(), ScriptedSource::granting(DAY));
    let other =
        SharedSource::with_key(source.clone(), store.clone(), "other", FLEET_SECRET).unwrap();
    other.fetch(first_fetch()).await.unwrap();
    let other_name = store.entries.lock().unwrap().keys().next().unwrap().clone();
    store.entries.lock().unwrap().insert(other_name, entry);
    other.fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn an_entry_written_by_another_clock_never_extends_a_lifetime() {
    let (store, clock) = (Memory::default(), ManualClock::new());
    let source = ScriptedSource::granting(Duration::from_secs(3_600));
    let at = |clock: &ManualClock| shared(&source, store.clone()).with_clock(clock.clone());
    at(&clock).fetch(first_fetch()).await.unwrap();
    // An entry from 30 s in the future counts as new; one from 90 s counts as missing.
    let behind = ManualClock::new();
    behind.set_wall(Duration::from_secs(1_800_000_000 - 30));
    assert_eq!(text(&at(&behind).fetch(first_fetch()).await.unwrap()), "token-1");
    behind.set_wall(Duration::from_secs(1_800_000_000 - 90));
    assert_eq!(text(&at(&behind).fetch(first_fetch()).await.unwrap()), "token-2");
    // By the first clock, the second token is 90 s old. Near its expiry it counts as missing.
    assert_eq!(text(&at(&clock).fetch(first_fetch()).await.unwrap()), "token-2");
    clock.advance(Duration::from_secs(3_600 - 90 - 59));
    assert_eq!(text(&at(&clock).fetch(first_fetch()).await.unwrap()), "token-3");
}

#[tokio::test]
async fn a_token_that_is_granted_again_does_not_become_younger() {
    let (store, clock) = (Memory::default(), ManualClock::new());
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Same(1, DAY));
    let shared = shared(&source, store.clone()).with_clock(clock.clone());
    let first = shared.fetch(first_fetch()).await.unwrap();
    clock.advance(Duration::from_secs(3_600));
    shared.fetch(first_fetch().with_replacing(&first, true)).await.unwrap();
    assert_eq!(source.calls(), 2);
    let stored = shared.fetch(first_fetch()).await.unwrap();
    assert_eq!((source.calls(), stored.age()), (2, Duration::from_secs(3_600)));
    assert!(store.is_free(), "the lease was released");
}

#[tokio::test]
async fn an_older_stored_token_is_not_adopted() {
    let (store, clock) = (Memory::default(), ManualClock::new());
    let source = ScriptedSource::granting(DAY);
    let cache = TokenCache::builder(shared(&source, store.clone()).with_clock(clock.clone()));
    let cache = cache.clock(clock.clone()).build().unwrap();
    cache.token().await.unwrap();
    let old = store.entries.lock().unwrap().clone();
    clock.advance(Duration::from_secs(60));
    let first = cache.token().await.unwrap();
    let second = cache.replace(&first).await.unwrap();
    // For example, a store that lost its last write.
    *store.entries.lock().unwrap() = old;
    clock.advance(Duration::from_secs(120));
    assert_eq!(text(&cache.replace(&second).await.unwrap()), "token-3");
    assert_eq!(source.calls(), 3);
}

#[test]
fn a_short_secret_or_a_source_without_a_sharing_key_requires_a_key() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let message = |result: Result<SharedSource>| all_formats(&result.unwrap_err());
    let short = TokenClient::new(ClientCredentials::new("id", "short")).unwrap();
    assert!(message(SharedSource::new(short, Memory::default())).contains("32 bytes"));
    let keyless = ScriptedSource::granting(DAY);
    assert!(message(SharedSource::new(keyless.clone(), Memory::default())).contains("with_key"));
    assert!(
        message(SharedSource::with_key(keyless.clone(), Memory::default(), "name", "short"))
            .contains("32 bytes")
    );
    let long_enough = "x".repeat(32);
    assert!(SharedSource::with_key(keyless, Memory::default(), "name", long_enough).is_ok());
    let good = TokenClient::new(ClientCredentials::new("id", FLEET_SECRET)).unwrap();
    let good = SharedSource::new(good, Memory::default()).unwrap();
    assert!(!format!("{good:?}").contains(FLEET_SECRET));
    let named = SharedSource::with_key(
        ScriptedSource::granting(DAY),
        Memory::default(),
        "name",
        FLEET_SECRET,
    );
    let shown = format!("{:?}", named.unwrap());
    assert!(shown.contains("name") && !shown.contains(FLEET_SECRET), "{shown}");
}

#[tokio::test]
async fn a_token_without_a_lifetime_is_shared_for_five_minutes() {
    let response = json!({ "access_token": "t", "token_type": "Bearer" });
    let issuer = serve(ResponseTemplate::new(200).set_body_json(response)).await;
    let (store, clock) = (Memory::default(), ManualClock::new());
    let fetch = async || {
        let tokens = client_of(&issuer.uri()).build().unwrap();
        let shared = SharedSource::with_key(tokens, store.clone(), "name", FLEET_SECRET).unwrap();
        shared.with_clock(clock.clone()).fetch(first_fetch()).await.unwrap()
    };
    fetch().await;
    clock.advance(Duration::from_secs(200));
    assert_eq!(fetch().await.lifetime(), Some(Duration::from_secs(300)));
    assert_eq!(requests(&issuer).await.len(), 1);
    clock.advance(Duration::from_secs(100));
    fetch().await;
    assert_eq!(requests(&issuer).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn new_credentials_end_the_cooldown_of_each_cache_of_a_shared_source() {
    struct Renewable(Arc<AtomicBool>);
    #[async_trait]
    impl TokenSource for Renewable {
        async fn fetch(&self, _: FetchContext<'_>) -> Result<Token> {
            match self.0.load(Ordering::SeqCst) {
                true => Token::bearer("renewed", DAY),
                false => Err(Error::new(ErrorKind::Refused, "scripted").with_issuer_responded()),
            }
        }

        async fn has_new_credentials(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }
    let (store, clock) = (Memory::default(), PausedClock::new());
    let is_renewed = Arc::new(AtomicBool::new(false));
    let source = Renewable(Arc::clone(&is_renewed));
    // The name and the key do not change with the credentials.
    let shared = SharedSource::with_key(source, store, "name", FLEET_SECRET).unwrap();
    let shared = Arc::new(shared.with_clock(clock.clone()));
    let cache = || TokenCache::builder(Arc::clone(&shared)).clock(clock.clone()).build().unwrap();
    let (refused, adopting) = (cache(), cache());
    for cache in [&refused, &adopting] {
        assert_eq!(cache.token().await.expect_err("a refusal").kind(), ErrorKind::Refused);
    }
    is_renewed.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(text(&refused.token().await.unwrap()), "renewed");
}

#[tokio::test]
async fn a_store_in_front_of_a_store_passes_on_the_sharing_key_and_the_age() {
    let source = ScriptedSource::granting(DAY);
    let (near, far) = (Memory::default(), Memory::default());
    let nested = SharedSource::new(shared(&source, far.clone()), near.clone()).unwrap();
    let sharing_key = nested.sharing_key().await.unwrap().unwrap();
    assert_eq!(sharing_key.context(), "context");
    assert!(!nested.has_new_credentials().await);
    let other = Tied(source.clone(), "another-secret-of-thirty-two-bytes-and-more");
    let other = SharedSource::new(other, Memory::default()).unwrap();
    assert!(other.has_new_credentials().await);
    let named = SharedSource::with_key(source.clone(), Memory::default(), "name", FLEET_SECRET);
    let sharing_key = named.unwrap().sharing_key().await.unwrap().unwrap();
    assert_eq!(sharing_key.context(), "name");

    // A token from the far store keeps its age in the near one.
    let clock = ManualClock::new();
    let far = |clock: &ManualClock| shared(&source, far.clone()).with_clock(clock.clone());
    far(&clock).fetch(first_fetch()).await.unwrap();
    clock.advance(Duration::from_secs(3_600));
    for _ in 0..2 {
        let nested = SharedSource::new(far(&clock), near.clone()).unwrap();
        let token = nested.with_clock(clock.clone()).fetch(first_fetch()).await.unwrap();
        assert_eq!(token.age(), Duration::from_secs(3_600));
    }
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn a_store_can_be_checked_and_an_entry_forgotten() {
    let source = ScriptedSource::granting(DAY);
    let boxed: Box<dyn TokenStore> = Box::new(MemoryStore::new());
    let shared = shared(&source, Arc::new(boxed));
    shared.check().await.unwrap();
    shared.fetch(first_fetch()).await.unwrap();
    // A check changes nothing.
    shared.check().await.unwrap();
    shared.fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 1);
    shared.forget().await.unwrap();
    shared.fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 2);

    for trouble in ["down", "full", "hangs"] {
        let store = Memory::default();
        store.is_down.store(trouble == "down", Ordering::SeqCst);
        store.is_full.store(trouble == "full", Ordering::SeqCst);
        store.hangs.store(trouble == "hangs", Ordering::SeqCst);
        let shared = self::shared(&source, store);
        let error = shared.check().await.unwrap_err().to_string();
        assert!(error.starts_with("the token store cannot be used: "), "{error}");
        shared.forget().await.unwrap_err();
    }
}

#[tokio::test]
async fn the_name_of_an_entry_follows_from_the_secret_and_the_context() {
    let name = async |secret, context| {
        let source = ScriptedSource::granting(DAY);
        let shared = SharedSource::with_key(source, MemoryStore::new(), context, secret);
        shared.unwrap().entry_name().await.unwrap()
    };
    let first = name(FLEET_SECRET, "a").await;
    assert!(first.len() == 32 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
    assert_eq!(name(FLEET_SECRET, "a").await, first);
    assert_ne!(name(FLEET_SECRET, "b").await, first);
    assert_ne!(name("another-secret-of-thirty-two-bytes-and-more", "a").await, first);
}

#[tokio::test]
async fn the_order_of_scopes_and_parameters_does_not_start_another_entry() {
    let name = async |scope: &str, parameters: [(&str, &str); 2]| {
        let client = TokenClient::builder(ClientCredentials::new("id", FLEET_SECRET)).scope(scope);
        let client = parameters
            .into_iter()
            .fold(client, |client, (name, value)| client.parameter(name, value));
        let shared = SharedSource::new(client.build().unwrap(), MemoryStore::new());
        shared.unwrap().entry_name().await.unwrap()
    };
    let (a, b) = (("a", "1"), ("b", "2"));
    let first = name("x y", [a, b]).await;
    assert_eq!(name("y x", [b, a]).await, first);
    assert_ne!(name("x y z", [a, b]).await, first);
    assert_ne!(name("x y", [a, ("b", "3")]).await, first);
}

/// A store that panics.
struct Panics;

#[async_trait]
impl TokenStore for Panics {
    async fn load(&self, _: &str) -> std::io::Result<Option<Stored>> {
        panic!("scripted")
    }

    async fn save(&self, _: &str, _: &[u8], _: Duration) -> std::io::Result<()> {
        panic!("scripted")
    }

    async fn try_lease(&self, _: &str, _: Duration) -> std::io::Result<Option<Lease>> {
        panic!("scripted")
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_is_as_good_as_none() {
    let source = ScriptedSource::granting(DAY);
    shared(&source, Panics).fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 1);
}
