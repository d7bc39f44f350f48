//! A request's own timeout covers the wait for a token, the request and the replay.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body::Frame;
use reqwest_middleware::ClientBuilder;
use sitecore_auth::{AuthMiddleware, ErrorKind, Target, TokenCache};
use tokio::time::Instant;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use crate::support::{
    DAY, MS, ScriptedSource, Step, TestApi, auth_error, client_with, frames, origin, serve,
};

#[tokio::test]
async fn a_request_does_not_wait_for_a_slow_issuer_past_its_timeout() {
    let server = serve(ResponseTemplate::new(200)).await;
    let source = ScriptedSource::new([], Step::Slow(400 * MS, DAY));
    let client = client_with(source.clone(), origin(&server));
    let started = Instant::now();
    let error = client.get(server.uri()).timeout(200 * MS).send().await.expect_err("too late");
    let elapsed = started.elapsed();
    assert!(elapsed >= 190 * MS && elapsed < 390 * MS, "{elapsed:?}");
    let auth = auth_error(&error);
    assert_eq!((auth.kind(), auth.is_transient()), (ErrorKind::Timeout, true));
    assert!(server.received_requests().await.unwrap().is_empty());
    // The refresh continued, and the next request uses its token.
    assert!(client.get(server.uri()).timeout(Duration::from_secs(5)).send().await.is_ok());
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn the_wait_for_a_token_counts_towards_the_requests_timeout() {
    let server = serve(ResponseTemplate::new(200).set_delay(Duration::from_secs(5))).await;
    let source = ScriptedSource::new([], Step::Slow(300 * MS, DAY));
    let started = Instant::now();
    let error = client_with(source.clone(), origin(&server))
        .get(server.uri())
        .timeout(500 * MS)
        .send()
        .await
        .expect_err("too late");
    assert!(error.is_timeout(), "{error:?}");
    let elapsed = started.elapsed();
    assert!(elapsed >= 450 * MS && elapsed < 750 * MS, "{elapsed:?}");
}

#[tokio::test]
async fn if_replacing_the_token_is_slow_the_first_response_is_returned_in_time() {
    let server = serve(ResponseTemplate::new(401).set_body_string("first")).await;
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(Duration::from_secs(5), DAY));
    let started = Instant::now();
    let response = client_with(source.clone(), origin(&server))
        .get(server.uri())
        .timeout(300 * MS)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 401);
    let elapsed = started.elapsed();
    assert!(elapsed >= 250 * MS && elapsed < Duration::from_secs(2), "{elapsed:?}");
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
    // The body is complete, although the deadline has passed.
    assert_eq!(response.text().await.unwrap(), "first");
}

#[tokio::test]
async fn a_replay_gets_what_is_left_of_the_requests_timeout() {
    let server = MockServer::start().await;
    let rejection = ResponseTemplate::new(401).set_delay(600 * MS);
    Mock::given(any()).respond_with(rejection).up_to_n_times(1).mount(&server).await;
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(10));
    Mock::given(any()).respond_with(slow).mount(&server).await;
    let client = client_with(ScriptedSource::granting(DAY), origin(&server));
    let started = Instant::now();
    let call = client.get(server.uri()).timeout(1_000 * MS).send();
    assert!(call.await.expect_err("too late").is_timeout());
    let elapsed = started.elapsed();
    assert!(elapsed >= 900 * MS && elapsed < 1_500 * MS, "{elapsed:?}");
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_client_timeout_does_not_truncate_the_first_response() {
    let server = serve(ResponseTemplate::new(401).set_body_string("first")).await;
    let failing = Step::SlowFail(500 * MS, ErrorKind::Refused);
    let source = ScriptedSource::new([Step::Grant(DAY)], failing);
    let auth = AuthMiddleware::builder(TokenCache::new(source)).target(origin(&server));
    let http = reqwest::Client::builder().timeout(300 * MS).build().unwrap();
    let client = ClientBuilder::new(http).with(auth.build().unwrap()).build();
    let started = Instant::now();
    let response = client.get(server.uri()).send().await.unwrap();
    assert!(started.elapsed() >= 450 * MS);
    assert_eq!(
        (response.status().as_u16(), response.text().await.unwrap()),
        (401, "first".to_owned())
    );
}

#[tokio::test]
async fn an_endless_response_does_not_delay_the_replay() {
    let api = TestApi::start(|bearer, _| match bearer {
        "token-1" => {
            let body = frames(stream::iter([Frame::data("no".into())]).chain(stream::pending()));
            http::Response::builder().status(401).body(body).unwrap()
        }
        _ => http::Response::default(),
    })
    .await;
    let target = Target::origin(api.origin().clone()).unwrap();
    let client = client_with(ScriptedSource::granting(DAY), target);
    let call = client.get(api.origin().clone()).send();
    let response = tokio::time::timeout(Duration::from_secs(5), call).await.expect("no delay");
    assert_eq!(response.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_response_of_authoring_that_stalls_after_its_status_does_not_delay_the_replay() {
    let api = TestApi::start(|bearer, _| match bearer {
        "token-1" => {
            let start = Frame::data(r#"{"err"#.into());
            let body = frames(stream::iter([start]).chain(stream::pending()));
            let response = http::Response::builder().status(401);
            response.header("content-type", "application/json").body(body).unwrap()
        }
        _ => http::Response::default(),
    })
    .await;
    for (document, status) in [("{ a }", 200), ("mutation { a }", 401)] {
        let target = Target::origin(api.origin().clone()).unwrap();
        let client = client_with(ScriptedSource::granting(DAY), target);
        let call = client.post(api.authoring()).body(format!(r#"{{"query":"{document}"}}"#)).send();
        let response = tokio::time::timeout(Duration::from_secs(5), call).await.expect("no delay");
        assert_eq!(response.unwrap().status().as_u16(), status, "{document}");
    }
}
