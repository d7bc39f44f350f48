//! How a fleet handles failures: of the issuer, of one process alone, and late ones.

use std::{
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::json;
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, CredentialsProvider, Endpoint, Error, ErrorKind,
    ProviderSource, Result, Target, TokenCache, TokenClient, TokenSource as _, source_fn,
};
use sitecore_sandbox::{Api, Sandbox};
use sitecore_token_store::{MemoryStore, SharedSource};
use tokio::time::{Instant, sleep};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::support::{
    DAY, FLEET_SECRET, Memory, PausedClock, SECOND, ScriptedSource, Step, caches, client_of,
    first_fetch, requests, shared, text,
};

#[tokio::test(start_paused = true)]
async fn during_an_outage_the_fleet_makes_one_attempt_at_a_time() {
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
    // After the backoff, one cache requests a token, and all of them get it.
    source.turn_to(Step::Slow(SECOND, DAY));
    sleep(80 * SECOND).await;
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(std::result::Result::is_ok));
    assert_eq!(source.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_does_not_remove_the_stored_token() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Unavailable));
    let cache = &caches(1, &source, &store, &clock)[0];
    cache.token().await.unwrap();
    // The token is stale and the issuer is down, so the background refresh fails.
    tokio::time::advance(DAY * 85 / 100).await;
    cache.token().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(source.calls(), 2);
    // A process that starts now gets the same token as all others.
    let late = &caches(1, &source, &store, &clock)[0];
    assert_eq!(text(&late.token().await.unwrap()), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_processes_do_not_each_retry() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let failing = Step::SlowFail(SECOND / 10, ErrorKind::Unavailable);
    let source = ScriptedSource::new([], failing);
    let caches = caches(100, &source, &store, &clock);
    let errors = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(errors.iter().all(std::result::Result::is_err));
    // One refresh makes up to three token requests, and all of them together hardly more.
    assert!((3..=9).contains(&source.calls()), "{} token requests", source.calls());
}

#[tokio::test(start_paused = true)]
async fn one_refused_token_request_does_not_lock_the_fleet_out() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let lifetime = 60 * SECOND;
    let script = [Step::Grant(lifetime), Step::Fail(ErrorKind::Refused)];
    let source = ScriptedSource::new(script, Step::Grant(lifetime));
    let caches = caches(3, &source, &store, &clock);
    // All caches are in constant use. The issuer refuses only the second token request.
    for _ in 0..1_000 {
        for cache in &caches {
            cache.token().await.unwrap();
        }
        sleep(SECOND / 5).await;
    }
    assert!(source.calls() < 10, "{} token requests", source.calls());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_the_issuer_specifies_is_honoured_for_an_hour_at_most() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let week = 7 * DAY;
    let source =
        ScriptedSource::new([Step::FailFor(ErrorKind::RateLimited, week)], Step::Grant(DAY));
    let job_cache = || caches(1, &source, &store, &clock).remove(0);
    job_cache().token().await.unwrap_err();
    sleep(Duration::from_secs(1_800)).await;
    let error = job_cache().token().await.unwrap_err();
    assert_eq!((error.kind(), source.calls()), (ErrorKind::RateLimited, 1));
    sleep(Duration::from_secs(1_801)).await;
    job_cache().token().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_failure_does_not_replace_a_newer_token() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let hour = Duration::from_secs(3_600);
    let late = ScriptedSource::new([], Step::SlowFail(20 * SECOND, ErrorKind::Unavailable));
    let (source, late) = (ScriptedSource::granting(hour), shared(&late, store.clone()));
    let late = late.with_clock(clock.clone());
    let others = async {
        sleep(15 * SECOND).await;
        // The late process loses its lease.
        store.leases.lock().unwrap().clear();
        caches(1, &source, &store, &clock)[0].token().await.unwrap()
    };
    // The late process fails, but gets the other process's token.
    let (late, others) = tokio::join!(late.fetch(first_fetch()), others);
    assert_eq!(text(&late.unwrap()), text(&others));
    let cold = &caches(1, &source, &store, &clock)[0];
    assert_eq!(text(&cold.token().await.unwrap()), "token-1");
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_that_concern_one_process_only_are_not_shared() {
    let unavailable = || Error::new(ErrorKind::Unavailable, "local");
    for error in [
        Error::new(ErrorKind::Config, "local"),
        Error::new(ErrorKind::Timeout, "local"),
        // A captive portal, a proxy, or a network that is down.
        Error::new(ErrorKind::Malformed, "local"),
        unavailable(),
        unavailable().with_retry_after(60 * SECOND),
        unavailable().with_never_reached_issuer(),
    ] {
        let (store, clock) = (Memory::default(), PausedClock::new());
        let failing = error.clone();
        let broken = source_fn(move |_| ready(Err(failing.clone())));
        let broken = SharedSource::with_key(broken, store.clone(), "context", FLEET_SECRET);
        let broken = broken.unwrap().with_clock(clock.clone());
        broken.fetch(first_fetch()).await.unwrap_err();
        let source = ScriptedSource::granting(DAY);
        let started = Instant::now();
        caches(1, &source, &store, &clock)[0].token().await.unwrap();
        assert!(started.elapsed().is_zero(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_network_in_a_loop_does_not_affect_healthy_processes() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let broken = source_fn(|_| async {
        // Connecting takes a while.
        sleep(SECOND).await;
        Err(Error::new(ErrorKind::Unavailable, "no route").with_never_reached_issuer())
    });
    let broken = SharedSource::with_key(broken, store.clone(), "context", FLEET_SECRET);
    let broken = broken.unwrap().with_clock(clock.clone());
    let loops = async {
        loop {
            let _ = broken.fetch(first_fetch()).await;
            sleep(SECOND / 10).await;
        }
    };
    let source = ScriptedSource::new([], Step::Slow(SECOND, DAY));
    let caches = caches(10, &source, &store, &clock);
    let healthy = async {
        sleep(SECOND / 2).await;
        join_all(caches.iter().map(TokenCache::token)).await
    };
    tokio::select! {
        () = loops => {}
        tokens = healthy => assert!(tokens.iter().all(std::result::Result::is_ok)),
    }
    assert_eq!(source.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_failure_of_the_issuer_does_not_end_the_refreshes_of_the_others() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let blip = Step::SlowFail(SECOND / 10, ErrorKind::Unavailable);
    let source = ScriptedSource::new([blip], Step::Slow(SECOND / 10, DAY));
    let caches = caches(100, &source, &store, &clock);
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(std::result::Result::is_ok));
    assert_eq!(source.calls(), 2);
    // The others have made no token request.
    let requests: u64 = caches.iter().map(|cache| cache.status().token_requests()).sum();
    assert_eq!(requests, 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_sees_only_failures_of_attempts_that_began_after_its_call() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let failing = Step::SlowFail(SECOND / 10, ErrorKind::Unavailable);
    let source = ScriptedSource::new([], failing);
    // Three processes at a time start one after the other, and each makes one call.
    for _ in 0..20 {
        let before = source.calls();
        let caches = caches(3, &source, &store, &clock);
        let errors = join_all(caches.iter().map(TokenCache::token)).await;
        assert!(errors.iter().all(std::result::Result::is_err));
        assert!(source.calls() > before);
        sleep(SECOND).await;
    }
    // One refresh at a time, of three token requests. Without a store there would be 180.
    assert!(source.calls() <= 70, "{} token requests", source.calls());
}

#[tokio::test(start_paused = true)]
async fn failed_token_requests_do_not_use_up_the_budget_for_rejected_tokens() {
    let (store, clock) = (Memory::default(), PausedClock::new());
    let failing = Step::SlowFail(SECOND / 10, ErrorKind::Unavailable);
    let source = ScriptedSource::new([Step::Grant(DAY)], failing);
    let caches = caches(2, &source, &store, &clock);
    let old = caches[0].token().await.unwrap();
    caches[1].token().await.unwrap();
    // The issuer is down for a minute.
    for _ in 0..20 {
        for cache in &caches {
            cache.replace(&old).await.unwrap_err();
        }
        sleep(3 * SECOND).await;
    }
    source.turn_to(Step::Grant(DAY));
    sleep(60 * SECOND).await;
    assert_ne!(text(&caches[0].replace(&old).await.unwrap()), text(&old));
}

#[tokio::test]
async fn a_replacement_that_the_api_accepts_is_given_back_to_the_budget_of_all_processes() {
    let sandbox = Sandbox::start().await.unwrap();
    let store = MemoryStore::new();
    for revoked in 0..10 {
        // Each job is cold, so the API has not accepted a token of its cache yet.
        let client = sandbox.organization();
        let credentials = ClientCredentials::new(client.id(), client.secret());
        let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience()).unwrap();
        let tokens = TokenClient::builder(credentials).endpoint(endpoint).build().unwrap();
        let tokens = SharedSource::new(tokens, store.clone()).unwrap();
        let target = Target::deploy().with_origin(sandbox.origin(Api::Deploy).clone()).unwrap();
        let auth = AuthMiddleware::builder(TokenCache::new(tokens)).target(target);
        let client = auth.build().unwrap().into_client(reqwest::Client::builder()).unwrap();
        sandbox.revoke_tokens();
        let call = client.get(sandbox.url(Api::Deploy, "/api/projects/v1")).send();
        assert_eq!(call.await.unwrap().status(), 200, "{revoked}");
        // The entry is changed in the background.
        sleep(SECOND / 20).await;
    }
}

/// Credentials that a test can change.
#[derive(Clone)]
struct ChangingSecret(Arc<Mutex<&'static str>>);

#[async_trait]
impl CredentialsProvider for ChangingSecret {
    async fn credentials(&self) -> Result<ClientCredentials> {
        Ok(ClientCredentials::new("client", *self.0.lock().unwrap()))
    }
}

#[tokio::test]
async fn a_process_that_adopted_a_refusal_notices_new_credentials() {
    const NEW: &str = "new-secret-of-thirty-two-bytes-and-more";
    let issuer = MockServer::start().await;
    let respond = |request: &Request| {
        let is_new = String::from_utf8_lossy(&request.body).contains(NEW);
        if is_new {
            let token = json!({ "access_token": "t", "token_type": "Bearer", "expires_in": 3_600 });
            return ResponseTemplate::new(200).set_body_json(token);
        }
        ResponseTemplate::new(401).set_body_json(json!({ "error": "invalid_client" }))
    };
    Mock::given(any()).respond_with(respond).mount(&issuer).await;
    let client = client_of(&issuer.uri()).build().unwrap();
    let store = Memory::default();
    let secret = ChangingSecret(Arc::new(Mutex::new(FLEET_SECRET)));
    let caches = [(); 2].map(|()| {
        let source = ProviderSource::new(secret.clone(), &client);
        TokenCache::new(SharedSource::new(source, store.clone()).unwrap())
    });
    for cache in &caches {
        assert_eq!(cache.token().await.unwrap_err().kind(), ErrorKind::Refused);
    }
    assert_eq!(requests(&issuer).await.len(), 1, "the second cache adopted the failure");
    *secret.0.lock().unwrap() = NEW;
    // The caches check for new credentials once a second.
    for cache in &caches {
        let started = Instant::now();
        while cache.token().await.is_err() {
            assert!(started.elapsed() < 10 * SECOND);
            sleep(SECOND / 10).await;
        }
    }
    assert_eq!(requests(&issuer).await.len(), 2);
}
