//! One token for many processes, in one process: each source stands for a process of its own.

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
    ByLease, DAY, FLEET_SECRET, Memory, PausedClock, SECOND, ScriptedSource, Step, Tied, caches,
    client_of, everything_said, first_fetch, requests, serve, shared, text,
};

#[tokio::test(start_paused = true)]
async fn a_hundred_that_start_cold_cost_one_grant() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(100, &source, &store, &clock);
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(|token| text(token.as_ref().unwrap()) == "token-1"));
    assert_eq!(source.calls(), 1);
    // Those that come later adopt it, with its age.
    clock.wall_forward(Duration::from_secs(3_600));
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let late = &self::caches(1, &source, &store, &clock)[0];
    late.token().await.unwrap();
    let age = late.status().age().unwrap();
    assert!(age >= Duration::from_secs(3_600), "{age:?}");
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_cost_less_than_one_and_a_half_grants_a_day() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(100, &source, &store, &clock);
    let days = 10;
    // Each is in use every ten minutes, and never waits but for the first token.
    for _ in 0..days * 144 {
        let begun = tokio::time::Instant::now();
        join_all(caches.iter().map(TokenCache::token)).await;
        assert!(begun.elapsed().is_zero() || source.calls() == 1);
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    assert!(source.calls() <= days * 3 / 2, "{}", source.calls());
    assert!(source.calls() >= days, "{}", source.calls());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_or_hangs_is_as_if_it_were_not_there() {
    for hangs in [false, true] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        store.is_down.store(!hangs, Ordering::SeqCst);
        store.hangs.store(hangs, Ordering::SeqCst);
        let source = ScriptedSource::granting(DAY);
        let caches = caches(10, &source, &store, &clock);
        let begun = tokio::time::Instant::now();
        let tokens = join_all(caches.iter().map(TokenCache::token)).await;
        assert!(tokens.iter().all(std::result::Result::is_ok));
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        // Each alone, and not all in one instant.
        let asked = source.asked();
        assert_eq!(asked.len(), 10);
        assert!(
            asked.iter().max().unwrap().duration_since(*asked.iter().min().unwrap())
                > Duration::from_millis(50)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_holder_that_does_not_come_back_asks_beside_it() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    store.is_stuck.store(true, Ordering::SeqCst);
    let source = ScriptedSource::granting(DAY);
    let cache = &caches(1, &source, &store, &clock)[0];
    let begun = tokio::time::Instant::now();
    cache.token().await.unwrap();
    let took = begun.elapsed();
    assert!(took > 17 * SECOND && took < 20 * SECOND, "{took:?}");
    // And what it was granted is there for the others.
    assert_eq!((source.calls(), store.entries.lock().unwrap().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn many_who_wait_for_a_holder_that_does_not_come_back_ask_in_turns() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    store.is_stuck.store(true, Ordering::SeqCst);
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(50, &source, &store, &clock);
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(Result::is_ok));
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_was_given_up_counts_in_the_next() {
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
async fn a_wait_is_not_taken_off_the_life_of_the_token() {
    for holder_comes_back in [true, false] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        store.is_stuck.store(true, Ordering::SeqCst);
        // Shorter than the wait.
        let source = ScriptedSource::new([], Step::Slow(SECOND, 10 * SECOND));
        let cache = &caches(1, &source, &store, &clock)[0];
        let others = shared(&source, store.clone()).with_clock(clock.clone());
        let freed = async {
            tokio::time::sleep(15 * SECOND).await;
            if holder_comes_back {
                store.is_stuck.store(false, Ordering::SeqCst);
                others.fetch(first_fetch()).await.unwrap();
            }
        };
        let (token, ()) = tokio::join!(cache.token(), freed);
        let left = cache.status().age().unwrap();
        assert!(token.is_ok() && left <= 2 * SECOND, "{left:?}");
        assert_eq!(source.calls(), 1);
    }
}

#[tokio::test]
async fn what_was_granted_while_the_secret_changed_is_not_stored() {
    struct Changing(ScriptedSource, AtomicBool);
    #[async_trait]
    impl TokenSource for Changing {
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
    let changing = Changing(source.clone(), AtomicBool::new(false));
    let changing = SharedSource::new(changing, store.clone()).unwrap();
    changing.fetch(first_fetch()).await.unwrap();
    assert!(store.entries.lock().unwrap().is_empty());
    // With the new one it is stored.
    changing.fetch(first_fetch()).await.unwrap();
    changing.fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn a_refused_token_is_replaced_by_one_of_a_shorter_life() {
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
async fn what_was_saved_before_the_lease_was_had_is_found() {
    let (store, source) = (Memory::default(), ScriptedSource::granting(DAY));
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    let saved = std::mem::take(&mut *store.entries.lock().unwrap());
    *store.by_lease.lock().unwrap() = Some(ByLease::Saved(saved));
    let token = shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert_eq!((text(&token), source.calls()), ("token-1".to_owned(), 1));
    assert!(store.leased.lock().unwrap().is_empty(), "it was given back");
    // What is there is adopted whoever has the lease.
    store.is_stuck.store(true, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert!(begun.elapsed().is_zero());
    store.is_stuck.store(false, Ordering::SeqCst);

    // A store that is down by then is left alone: its limit is waited for once.
    store.entries.lock().unwrap().clear();
    *store.by_lease.lock().unwrap() = Some(ByLease::Down);
    let before = store.calls.load(Ordering::SeqCst);
    shared(&source, store.clone()).fetch(first_fetch()).await.unwrap();
    assert_eq!(store.calls.load(Ordering::SeqCst) - before, 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_for_all_by_one_grant() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::granting(DAY);
    let caches = caches(20, &source, &store, &clock);
    let old = join_all(caches.iter().map(TokenCache::token)).await.remove(0).unwrap();
    let tokens = join_all(caches.iter().map(|cache| cache.replace(&old))).await;
    assert!(tokens.iter().all(|token| text(token.as_ref().unwrap()) == "token-2"));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_begins_an_entry_of_its_own() {
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
async fn an_altered_cut_or_foreign_entry_is_missing_and_overwritten() {
    let clock = PausedClock::new();
    let sealed = {
        let store = Memory::default();
        shared(&ScriptedSource::granting(DAY), store.clone()).fetch(first_fetch()).await.unwrap();
        let entries = store.entries.lock().unwrap().clone();
        entries.into_iter().next().unwrap()
    };
    let (name, entry) = sealed;
    assert!(!entry.windows(5).any(|bytes| bytes == b"token"));
    let altered = (0..entry.len()).map(|at| {
        let mut altered = entry.clone();
        altered[at] ^= 1 << (at % 8);
        altered
    });
    let cut = (0..entry.len()).map(|length| entry[..length].to_vec());
    for bad in altered.chain(cut).step_by(3) {
        let (store, source) = (Memory::default(), ScriptedSource::granting(DAY));
        store.entries.lock().unwrap().insert(name.clone(), bad.clone());
        shared(&source, store.clone())
            .with_clock(clock.clone())
            .fetch(first_fetch())
            .await
            .unwrap();
        assert_eq!(source.calls(), 1, "accepted");
        assert_ne!(store.entries.lock().unwrap()[&name], bad);
    }
    // Under another name it is missing too.
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
async fn an_entry_from_another_clock_never_extends_a_life() {
    let (store, clock) = (Memory::default(), ManualClock::new());
    let source = ScriptedSource::granting(Duration::from_secs(3_600));
    let at = |clock: &ManualClock| shared(&source, store.clone()).with_clock(clock.clone());
    at(&clock).fetch(first_fetch()).await.unwrap();
    // Half a minute in the future: believed, as new. More: missing.
    let behind = ManualClock::new();
    behind.set_wall(Duration::from_secs(1_800_000_000 - 30));
    assert_eq!(text(&at(&behind).fetch(first_fetch()).await.unwrap()), "token-1");
    behind.set_wall(Duration::from_secs(1_800_000_000 - 90));
    assert_eq!(text(&at(&behind).fetch(first_fetch()).await.unwrap()), "token-2");
    // That one was issued a minute and a half ago, for who has the other clock; near its end it is missing.
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
    assert!(store.leased.lock().unwrap().is_empty(), "it was given back");
}

#[tokio::test]
async fn an_older_token_of_the_store_does_not_come_back() {
    let (store, clock) = (Memory::default(), ManualClock::new());
    let source = ScriptedSource::granting(DAY);
    let cache = TokenCache::builder(shared(&source, store.clone()).with_clock(clock.clone()));
    let cache = cache.clock(clock.clone()).build().unwrap();
    cache.token().await.unwrap();
    let old = store.entries.lock().unwrap().clone();
    clock.advance(Duration::from_secs(60));
    let first = cache.token().await.unwrap();
    let second = cache.replace(&first).await.unwrap();
    // A store that lost its last write, say.
    *store.entries.lock().unwrap() = old;
    clock.advance(Duration::from_secs(120));
    assert_eq!(text(&cache.replace(&second).await.unwrap()), "token-3");
    assert_eq!(source.calls(), 3);
}

#[test]
fn a_short_secret_or_an_unknown_source_wants_a_key() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let cause = |result: Result<SharedSource>| everything_said(&result.unwrap_err());
    let short = TokenClient::new(ClientCredentials::new("id", "short")).unwrap();
    assert!(cause(SharedSource::new(short, Memory::default())).contains("32 bytes"));
    let unknown = ScriptedSource::granting(DAY);
    assert!(cause(SharedSource::new(unknown.clone(), Memory::default())).contains("with_key"));
    assert!(
        cause(SharedSource::with_key(unknown.clone(), Memory::default(), "name", "short"))
            .contains("32 bytes")
    );
    let just = "x".repeat(32);
    assert!(SharedSource::with_key(unknown, Memory::default(), "name", just).is_ok());
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
async fn a_token_whose_issuer_named_no_life_is_shared_for_five_minutes() {
    let answer = json!({ "access_token": "t", "token_type": "Bearer" });
    let issuer = serve(ResponseTemplate::new(200).set_body_json(answer)).await;
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
async fn a_store_before_a_store_says_what_the_source_says() {
    let source = ScriptedSource::granting(DAY);
    let (near, far) = (Memory::default(), Memory::default());
    let nested = SharedSource::new(shared(&source, far.clone()), near.clone()).unwrap();
    let identity = nested.sharing_key().await.unwrap().unwrap();
    assert_eq!(identity.context(), "context");
    assert!(!nested.has_new_credentials().await);
    let other = Tied(source.clone(), "another-secret-of-thirty-two-bytes-and-more");
    let other = SharedSource::new(other, Memory::default()).unwrap();
    assert!(other.has_new_credentials().await);
    let named = SharedSource::with_key(source.clone(), Memory::default(), "name", FLEET_SECRET);
    let identity = named.unwrap().sharing_key().await.unwrap().unwrap();
    assert_eq!(identity.context(), "name");

    // What comes from the far one keeps its age in the near one.
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
