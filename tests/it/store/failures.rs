//! What a fleet makes of failures: those of the issuer, those of one process alone, and those that come late.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::json;
use sitecore_auth::{
    ClientCredentials, CredentialsProvider, ErrorKind, ProviderSource, Result, TokenCache,
    TokenSource as _,
};
use sitecore_token_store::SharedSource;
use tokio::time::{Instant, sleep};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::support::{
    DAY, FLEET_SECRET, Memory, PausedClock, SECOND, ScriptedSource, Step, caches, client_of,
    first_fetch, requests, shared, text,
};

#[tokio::test(start_paused = true)]
async fn an_outage_costs_the_fleet_one_try_at_a_time() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([], Step::SlowFail(SECOND, ErrorKind::Refused));
    let caches = caches(100, &source, &store, &clock);
    let errors = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(
        errors
            .iter()
            .all(|error| { error.as_ref().is_err_and(|error| error.kind() == ErrorKind::Refused) })
    );
    assert!(
        errors.iter().all(|error| error.as_ref().unwrap_err().retry_after().unwrap() > 40 * SECOND)
    );
    assert_eq!(source.calls(), 1);
    // When the gate is over, one asks, and all have the token.
    source.turn_to(Step::Slow(SECOND, DAY));
    sleep(80 * SECOND).await;
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(std::result::Result::is_ok));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_takes_no_token_from_the_others() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Unavailable));
    let cache = &caches(1, &source, &store, &clock)[0];
    cache.token().await.unwrap();
    // Stale, and the issuer is down: the renewal beside this call fails.
    tokio::time::advance(DAY * 85 / 100).await;
    cache.token().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(source.calls(), 2);
    // Who starts now has the token that all others have.
    let late = &caches(1, &source, &store, &clock)[0];
    assert_eq!(text(&late.token().await.unwrap()), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_do_not_try_again_each_for_itself() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let failing = Step::SlowFail(SECOND / 10, ErrorKind::Unavailable);
    let source = ScriptedSource::new([], failing);
    let caches = caches(100, &source, &store, &clock);
    let errors = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(errors.iter().all(std::result::Result::is_err));
    // Each refresh has three grants, and all of them together hardly more.
    assert!((3..=9).contains(&source.calls()), "{} grants", source.calls());
}

#[tokio::test(start_paused = true)]
async fn one_refusal_locks_nobody_out_who_could_have_a_token() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let life = 60 * SECOND;
    let script = [Step::Grant(life), Step::Fail(ErrorKind::Refused)];
    let source = ScriptedSource::new(script, Step::Grant(life));
    let caches = caches(3, &source, &store, &clock);
    // Each is in use all the time; the second grant is refused, all others are not.
    for _ in 0..1_000 {
        for cache in &caches {
            cache.token().await.unwrap();
        }
        sleep(SECOND / 5).await;
    }
    assert!(source.calls() < 10, "{} grants", source.calls());
}

#[tokio::test(start_paused = true)]
async fn what_an_issuer_names_is_kept_to_for_an_hour_at_most() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let week = 7 * DAY;
    let source =
        ScriptedSource::new([Step::FailFor(ErrorKind::RateLimited, week)], Step::Grant(DAY));
    let of_the_job = || caches(1, &source, &store, &clock).remove(0);
    of_the_job().token().await.unwrap_err();
    sleep(Duration::from_secs(1_800)).await;
    let told = of_the_job().token().await.unwrap_err();
    assert_eq!((told.kind(), source.calls()), (ErrorKind::RateLimited, 1));
    sleep(Duration::from_secs(1_801)).await;
    of_the_job().token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_failure_takes_no_token_from_anybody() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let hour = Duration::from_secs(3_600);
    let late = ScriptedSource::new([], Step::SlowFail(20 * SECOND, ErrorKind::Unavailable));
    let (source, late) = (ScriptedSource::granting(hour), shared(&late, store.clone()));
    let late = late.with_clock(clock.clone());
    let others = async {
        sleep(15 * SECOND).await;
        // The lease of the other one is over.
        store.leased.lock().unwrap().clear();
        caches(1, &source, &store, &clock)[0].token().await.unwrap()
    };
    // Who comes late with a failure is given what the others have.
    let (late, others) = tokio::join!(late.fetch(first_fetch()), others);
    assert_eq!(text(&late.unwrap()), text(&others));
    let cold = &caches(1, &source, &store, &clock)[0];
    assert_eq!(text(&cold.token().await.unwrap()), "token-1");
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_one_process_is_not_told_to_others() {
    for kind in [ErrorKind::Config, ErrorKind::Timeout] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        let broken = ScriptedSource::new([], Step::Fail(kind));
        let broken = shared(&broken, store.clone()).with_clock(clock.clone());
        broken.fetch(first_fetch()).await.unwrap_err();
        let source = ScriptedSource::granting(DAY);
        caches(1, &source, &store, &clock)[0].token().await.unwrap();
    }
}

/// Credentials that a test changes.
#[derive(Clone)]
struct Changing(Arc<Mutex<&'static str>>);

#[async_trait]
impl CredentialsProvider for Changing {
    async fn credentials(&self) -> Result<ClientCredentials> {
        Ok(ClientCredentials::new("client", *self.0.lock().unwrap()))
    }
}

#[tokio::test]
async fn who_was_told_of_a_refusal_notices_new_credentials_too() {
    const NEW: &str = "new-secret-of-thirty-two-bytes-and-more";
    let issuer = MockServer::start().await;
    let answer = |request: &Request| {
        let is_new = String::from_utf8_lossy(&request.body).contains(NEW);
        if is_new {
            let token = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 3_600 });
            return ResponseTemplate::new(200).set_body_json(token);
        }
        ResponseTemplate::new(401).set_body_json(json!({ "error": "invalid_client" }))
    };
    Mock::given(any()).respond_with(answer).mount(&issuer).await;
    let client = client_of(&issuer.uri()).build().unwrap();
    let store = Memory::default();
    let secret = Changing(Arc::new(Mutex::new(FLEET_SECRET)));
    let caches = [(); 2].map(|()| {
        let source = ProviderSource::new(secret.clone(), &client);
        TokenCache::new(SharedSource::new(source, store.clone()).unwrap())
    });
    for cache in &caches {
        assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Refused);
    }
    assert_eq!(requests(&issuer).await.len(), 1, "the other one was told");
    *secret.0.lock().unwrap() = NEW;
    // As soon as somebody looks, which is once a second.
    for cache in &caches {
        let begun = Instant::now();
        while cache.token().await.is_err() {
            assert!(begun.elapsed() < 10 * SECOND);
            sleep(SECOND / 10).await;
        }
    }
    assert_eq!(requests(&issuer).await.len(), 2);
}
