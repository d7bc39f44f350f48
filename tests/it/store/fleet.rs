//! One token for many processes, simulated in one process. Each source stands for one of them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::json;
use sitecore_auth::{
    ClientCredentials, FetchContext, ManualClock, RefreshPolicy, Result, SharingKey, Token,
    TokenCache, TokenClient, TokenSource,
};
use sitecore_token_store::SharedSource;
use wiremock::ResponseTemplate;

use crate::support::{
    ByLease, DAY, FLEET_SECRET, Memory, PausedClock, SECOND, ScriptedSource, Step, Tied,
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
        assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
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
async fn a_process_that_waits_for_an_unresponsive_holder_requests_a_token_anyway() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    store.is_stuck.store(true, Ordering::SeqCst);
    let source = ScriptedSource::granting(DAY);
    let cache = &caches(1, &source, &store, &clock)[0];
    let started = tokio::time::Instant::now();
    cache.token().await.unwrap();
    let elapsed = started.elapsed();
    assert!(elapsed > 17 * SECOND && elapsed < 20 * SECOND, "{elapsed:?}");
    // The token is saved for the others.
    assert_eq!((source.calls(), store.entries.lock().unwrap().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn processes_that_wait_for_an_unresponsive_holder_take_turns() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    store.is_stuck.store(true, Ordering::SeqCst);
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(50, &source, &store, &clock);
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(Result::is_ok));
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_wait_counts_towards_the_next() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    store.is_stuck.store(true, Ordering::SeqCst);
    let source = ScriptedSource::granting(DAY);
    let mut policy = RefreshPolicy::default();
    policy.refresh_timeout = 10 * SECOND;
    let shared = shared(&source, store).with_clock(clock.clone());
    let cache = TokenCache::builder(shared).policy(policy).clock(clock);
    let cache = cache.build().unwrap();
    cache.token().await.unwrap_err();
    tokio::time::sleep(2 * SECOND).await;
    cache.token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_of_a_token_counts_from_the_call_that_waited_for_it() {
    for holder_responds in [true, false] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        store.is_stuck.store(true, Ordering::SeqCst);
        let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
        let cache = &caches(1, &source, &store, &clock)[0];
        let others = shared(&source, store.clone()).with_clock(clock.clone());
        let holder = async {
            tokio::time::sleep(15 * SECOND).await;
            if holder_responds {
                store.is_stuck.store(false, Ordering::SeqCst);
                others.fetch(first_fetch()).await.unwrap();
            }
        };
        let (token, ()) = tokio::join!(cache.token(), holder);
        let age = cache.status().age().unwrap();
        assert!(token.is_ok() && age <= 20 * SECOND, "{age:?}");
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
    assert!(store.entries.lock().unwrap().is_empty());
    // A token granted with the new secret is saved.
    changing.fetch(first_fetch()).await.unwrap();
    changing.fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 2);
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
    assert!(store.leased.lock().unwrap().is_empty(), "the lease was released");
    // A stored token is adopted even if another process has the lease.
    store.is_stuck.store(true, Ordering::SeqCst);
    let started = tokio::time::Instant::now();
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert!(started.elapsed().is_zero());
    store.is_stuck.store(false, Ordering::SeqCst);

    // If the store is down by then, it is not called again.
    store.entries.lock().unwrap().clear();
    *store.by_lease.lock().unwrap() = Some(ByLease::Down);
    let before = store.calls.load(Ordering::SeqCst);
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert_eq!(store.calls.load(Ordering::SeqCst) - before, 3);
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
    for bad in altered.chain(truncated).step_by(3) {
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
    let stored = store.entries.lock().unwrap().clone();
    clock.advance(Duration::from_secs(3_600));
    shared.fetch(first_fetch().with_replacing(&first, true)).await.unwrap();
    assert_eq!(source.calls(), 2);
    assert_eq!(*store.entries.lock().unwrap(), stored);
    assert!(store.leased.lock().unwrap().is_empty(), "the lease was released");
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
