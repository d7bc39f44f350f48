//! The layer among others: reqwest-retry outside and inside of it, reqwest-tracing on both sides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::body::Body;
use http::Response;
use reqwest::Client;
use reqwest_middleware::{ClientBuilder, Error};
use reqwest_retry::{RetryError, RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_tracing::{SpanBackendWithUrl, TracingMiddleware};
use sitecore_auth::{
    AuthMiddleware, ErrorKind, ManualClock, Target, Token, TokenCache, TokenSource, source_fn,
};

use crate::support::{
    Api, HOUR, Logs, ScriptedSource, Step, auth_error, cache_of, everything_said,
};

/// Up to three retries, at once.
fn retry() -> RetryTransientMiddleware<ExponentialBackoff> {
    let backoff =
        ExponentialBackoff::builder().retry_bounds(Duration::ZERO, Duration::from_millis(1));
    RetryTransientMiddleware::new_with_policy(backoff.build_with_max_retries(3))
}

fn layer(cache: &TokenCache, api: &Api) -> AuthMiddleware {
    let target = Target::origin(api.origin().clone()).unwrap();
    AuthMiddleware::builder(cache.clone()).target(target).build().unwrap()
}

fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn each_attempt_of_a_retry_outside_has_a_fresh_header() {
    let clock = ManualClock::new();
    let time = clock.clone();
    // An hour goes by with each attempt, which is more than a token lives.
    let api = Api::start(move |bearer, _| {
        time.advance(HOUR);
        status(if bearer == "token-3" { 200 } else { 503 })
    })
    .await;
    let cache = cache_of(&ScriptedSource::granting(HOUR / 2), clock);
    let client = ClientBuilder::new(Client::new()).with(retry()).with(layer(&cache, &api)).build();
    let answer = client.get(api.origin().clone()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(api.bearers(), ["token-1", "token-2", "token-3"]);
}

#[tokio::test]
async fn a_retry_inside_repeats_the_request_with_the_header_that_it_has() {
    let failures = Arc::new(AtomicUsize::new(2));
    let api = Api::start(move |bearer, _| {
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
    let client = ClientBuilder::new(Client::new()).with(layer(&cache, &api)).with(retry()).build();
    let answer = client.get(api.origin().clone()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), source.calls()), (200, 2));
    // A refusal is no failure to repeat: it is the layer's business, which is outside.
    assert_eq!(api.bearers(), ["token-1", "token-1", "token-1", "token-2"]);
}

#[tokio::test]
async fn an_error_is_found_within_the_one_of_a_retry() {
    let api = Api::start(|_, _| status(200)).await;
    let source = ScriptedSource::new([], Step::FailFor(ErrorKind::RateLimited, HOUR));
    let cache = TokenCache::new(source);
    let inside = ClientBuilder::new(Client::new()).with(layer(&cache, &api)).with(retry()).build();
    let error = inside.get(api.origin().clone()).send().await.unwrap_err();
    assert_eq!(auth_error(&error).kind(), ErrorKind::RateLimited);

    let outside = ClientBuilder::new(Client::new()).with(retry()).with(layer(&cache, &api)).build();
    let error = outside.get(api.origin().clone()).send().await.unwrap_err();
    let Error::Middleware(inner) = &error else { panic!("{error:?}") };
    let Some(RetryError::Error(error) | RetryError::WithRetries { err: error, .. }) =
        inner.downcast_ref()
    else {
        panic!("{inner:?}")
    };
    assert_eq!(auth_error(error).kind(), ErrorKind::RateLimited);
    assert!(api.bearers().is_empty());
}

/// Everything that is logged and said by calls through a stack that traces on both sides of the layer.
async fn traced(source: impl TokenSource, api: &Api) -> String {
    let logs = Logs::capture();
    let cache = TokenCache::new(source);
    let client = ClientBuilder::new(Client::builder().connection_verbose(false).build().unwrap())
        .with(TracingMiddleware::<SpanBackendWithUrl>::new())
        .with(retry())
        .with(layer(&cache, api))
        .with(TracingMiddleware::<SpanBackendWithUrl>::new())
        .build();
    let said = match client.post(api.authoring()).body("{}").send().await {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => everything_said(&error),
    };
    let logged = logs.text();
    assert!(
        logged.contains("HTTP") && logged.contains("token_refresh"),
        "nothing was captured: {logged}"
    );
    said + &logged
}

#[tokio::test]
async fn no_span_on_either_side_shows_a_token() {
    let refusing = Api::start(|_, _| status(401)).await;
    let failing = Api::start(|_, _| status(503)).await;
    let working = Api::start(|_, _| status(200)).await;
    for api in [&refusing, &failing, &working] {
        let granting = source_fn(|_| async { Token::bearer("t0ken-sentinel", HOUR) });
        let said = traced(granting, api).await;
        assert!(!said.contains("t0ken-sentinel"), "{said}");
        assert!(api.bearers().iter().all(|bearer| bearer == "t0ken-sentinel"));
    }
    traced(ScriptedSource::new([], Step::Fail(ErrorKind::Refused)), &working).await;
}
