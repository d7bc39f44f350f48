//! Combined with other middleware: reqwest-retry outside and inside, reqwest-tracing on both sides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::body::Body;
use futures_util::future::join_all;
use http::Response;
use reqwest::Client;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error};
use reqwest_retry::{RetryError, RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_tracing::{SpanBackendWithUrl, TracingMiddleware};
use sitecore_auth::{
    AuthMiddleware, ErrorKind, HonourRetryAfter, ManualClock, Target, Token, TokenCache,
    TokenSource, source_fn,
};
use tokio::time::Instant;

use crate::support::{
    HOUR, Logs, ScriptedSource, Step, TestApi, all_formats, auth_error, cache_of,
};

/// Retries up to three times, without delay.
fn retry() -> RetryTransientMiddleware<ExponentialBackoff> {
    let backoff =
        ExponentialBackoff::builder().retry_bounds(Duration::ZERO, Duration::from_millis(1));
    RetryTransientMiddleware::new_with_policy(backoff.build_with_max_retries(3))
}

fn auth(cache: &TokenCache, api: &TestApi) -> AuthMiddleware {
    let target = Target::origin(api.origin().clone()).unwrap();
    AuthMiddleware::builder(cache.clone()).target(target).build().unwrap()
}

fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn each_attempt_of_an_outer_retry_gets_a_current_token() {
    let clock = ManualClock::new();
    let time = clock.clone();
    // Each attempt takes an hour, which is longer than a token's lifetime.
    let api = TestApi::start(move |bearer, _| {
        time.advance(HOUR);
        status(if bearer == "token-3" { 200 } else { 503 })
    })
    .await;
    let cache = cache_of(&ScriptedSource::granting(HOUR / 2), clock);
    let client = ClientBuilder::new(Client::new()).with(retry()).with(auth(&cache, &api)).build();
    let response = client.get(api.origin().clone()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(api.bearers(), ["token-1", "token-2", "token-3"]);
}

#[tokio::test]
async fn an_inner_retry_repeats_the_request_with_the_same_token() {
    let failures = Arc::new(AtomicUsize::new(2));
    let api = TestApi::start(move |bearer, _| {
        let fails = failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        status(match bearer {
            _ if fails => 503,
            "token-1" => 401,
            _ => 200,
        })
    })
    .await;
    let source = ScriptedSource::granting(HOUR);
    let cache = TokenCache::new(source.clone());
    let client = ClientBuilder::new(Client::new()).with(auth(&cache, &api)).with(retry()).build();
    let response = client.get(api.origin().clone()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), source.calls()), (200, 2));
    // The inner retry does not repeat a 401. The middleware outside it replaces the token.
    assert_eq!(api.bearers(), ["token-1", "token-1", "token-1", "token-2"]);
}

#[tokio::test]
async fn our_error_can_be_found_inside_the_error_of_a_retry() {
    let api = TestApi::start(|_, _| status(200)).await;
    let source = ScriptedSource::new([], Step::FailFor(ErrorKind::RateLimited, HOUR));
    let cache = TokenCache::new(source);
    let inner = ClientBuilder::new(Client::new()).with(auth(&cache, &api)).with(retry()).build();
    let error = inner.get(api.origin().clone()).send().await.unwrap_err();
    assert_eq!(auth_error(&error).kind(), ErrorKind::RateLimited);

    let outer = ClientBuilder::new(Client::new()).with(retry()).with(auth(&cache, &api)).build();
    let error = outer.get(api.origin().clone()).send().await.unwrap_err();
    let Error::Middleware(source) = &error else { panic!("{error:?}") };
    assert!(source.downcast_ref::<RetryError>().is_some(), "{source:?}");
    assert_eq!(auth_error(&error).kind(), ErrorKind::RateLimited);
    assert!(api.bearers().is_empty());

    // After some retries.
    let retried = RetryError::WithRetries { retries: 2, err: error };
    let retried = Error::middleware(retried);
    assert_eq!(auth_error(&retried).kind(), ErrorKind::RateLimited);
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(retried);
    let found = sitecore_auth::Error::find(&*boxed).expect("our error");
    assert_eq!(found.kind(), ErrorKind::RateLimited);
    let foreign = std::io::Error::other("foreign");
    assert!(sitecore_auth::Error::find(&foreign).is_none());
    let wrapped = std::io::Error::other(found.clone());
    assert!(sitecore_auth::Error::find(&wrapped).is_some());
}

/// A client whose reqwest-retry honours our errors.
fn honouring(cache: &TokenCache, api: &TestApi, max_wait: Duration) -> ClientWithMiddleware {
    let backoff =
        ExponentialBackoff::builder().retry_bounds(Duration::ZERO, Duration::from_millis(1));
    let retry = HonourRetryAfter::new(backoff.build_with_max_retries(2)).max_wait(max_wait);
    ClientBuilder::new(Client::new()).with(retry.into_middleware()).with(auth(cache, api)).build()
}

#[tokio::test]
async fn a_retry_that_honours_retry_after_waits_as_long_as_the_error_says() {
    let api = TestApi::start(|_, _| status(200)).await;
    let wait = Duration::from_millis(400);
    let limited = Step::FailFor(ErrorKind::RateLimited, wait);
    let source = ScriptedSource::new([limited], Step::Grant(HOUR));
    let cache = TokenCache::new(source.clone());
    let client = honouring(&cache, &api, HOUR);
    let started = Instant::now();
    let calls = (0..5).map(|_| client.get(api.origin().clone()).send());
    for response in join_all(calls).await {
        assert_eq!(response.unwrap().status(), 200);
    }
    assert!(started.elapsed() >= wait, "{:?}", started.elapsed());
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn the_wait_of_one_call_does_not_delay_the_retries_of_another() {
    let responses = Arc::new(AtomicUsize::new(0));
    let api = TestApi::start(move |_, _| match responses.fetch_add(1, SeqCst) {
        0 => status(503),
        _ => status(200),
    })
    .await;
    let limited =
        TokenCache::new(ScriptedSource::new([], Step::FailFor(ErrorKind::RateLimited, HOUR)));
    let client = honouring(&TokenCache::new(ScriptedSource::granting(HOUR)), &api, 2 * HOUR);
    let call = |url| client.get::<url::Url>(url);
    let waiting = call(api.origin().clone()).with_extension(limited).send();
    let short = Duration::from_secs(1);
    assert!(tokio::time::timeout(short, waiting).await.is_err(), "it does not wait");
    let retried = tokio::time::timeout(10 * short, call(api.origin().clone()).send()).await;
    assert_eq!(retried.expect("it waits for the other call").unwrap().status(), 200);
}

#[tokio::test]
async fn a_warning_after_retries_names_each_target_once() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let api = TestApi::start(move |_, _| match attempts.fetch_add(1, SeqCst) {
        0 | 1 => status(503),
        _ => status(401),
    })
    .await;
    let logs = Logs::capture();
    let elsewhere = Target::authoring("cm.example").unwrap();
    let cache = TokenCache::new(ScriptedSource::granting(HOUR));
    let auth = AuthMiddleware::builder(cache).target(elsewhere).build().unwrap();
    let client = ClientBuilder::new(Client::new()).with(retry()).with(auth).build();
    let rejected = client.post(api.authoring()).send().await.unwrap();
    assert_eq!(rejected.status(), 401);
    let text = logs.text();
    assert_eq!(text.matches("https://cm.example/").count(), 1, "{text}");
}

#[tokio::test]
async fn a_retry_that_honours_retry_after_gives_up_if_waiting_cannot_help() {
    let api = TestApi::start(|_, _| status(200)).await;
    for step in [
        Step::Fail(ErrorKind::Refused),
        Step::Fail(ErrorKind::Config),
        // A longer wait than a call may take.
        Step::FailFor(ErrorKind::RateLimited, HOUR),
    ] {
        let source = ScriptedSource::new([step], Step::Grant(HOUR));
        let cache = TokenCache::new(source.clone());
        let client = honouring(&cache, &api, Duration::from_secs(60));
        let started = Instant::now();
        let error = client.get(api.origin().clone()).send().await.unwrap_err();
        auth_error(&error);
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(source.calls(), 1);
    }
    // Other failures are retried as by default.
    let down = TestApi::start(|_, _| status(503)).await;
    let cache = TokenCache::new(ScriptedSource::granting(HOUR));
    let client = honouring(&cache, &down, Duration::MAX);
    assert_eq!(client.get(down.origin().clone()).send().await.unwrap().status(), 503);
    assert_eq!(down.bearers().len(), 3);
}

/// Sends a request through a stack with tracing on both sides of the middleware. Returns what was
/// logged, and the response or error.
async fn traced(source: impl TokenSource, api: &TestApi) -> String {
    let logs = Logs::capture();
    let cache = TokenCache::new(source);
    let client = ClientBuilder::new(Client::builder().connection_verbose(false).build().unwrap())
        .with(TracingMiddleware::<SpanBackendWithUrl>::new())
        .with(retry())
        .with(auth(&cache, api))
        .with(TracingMiddleware::<SpanBackendWithUrl>::new())
        .build();
    let shown = match client.post(api.authoring()).body("{}").send().await {
        Ok(response) => format!("{response:?}"),
        Err(error) => all_formats(&error),
    };
    let logged = logs.text();
    assert!(
        logged.contains("HTTP") && logged.contains("token_refresh"),
        "no logs were captured: {logged}"
    );
    shown + &logged
}

#[tokio::test]
async fn no_span_outside_or_inside_the_middleware_shows_a_token() {
    let rejecting = TestApi::start(|_, _| status(401)).await;
    let failing = TestApi::start(|_, _| status(503)).await;
    let working = TestApi::start(|_, _| status(200)).await;
    for api in [&rejecting, &failing, &working] {
        let granting = source_fn(|_| async { Token::bearer("t0ken-sentinel", HOUR) });
        let shown = traced(granting, api).await;
        assert!(!shown.contains("t0ken-sentinel"), "{shown}");
        assert!(api.bearers().iter().all(|bearer| bearer == "t0ken-sentinel"));
    }
    traced(ScriptedSource::new([], Step::Fail(ErrorKind::Refused)), &working).await;
}
