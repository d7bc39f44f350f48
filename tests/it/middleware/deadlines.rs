//! A request's own timeout is one deadline for the wait, the request and the replay.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body::Frame;
use reqwest_middleware::ClientBuilder;
use sitecore_auth::{AuthMiddleware, ErrorKind, Target, TokenCache};
use tokio::time::Instant;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use crate::support::{
    Api, DAY, MS, ScriptedSource, Step, auth_error, client_with, frames, origin, serve,
};

#[tokio::test]
async fn a_slow_issuer_does_not_outlast_the_deadline() {
    let server = serve(ResponseTemplate::new(200)).await;
    let source = ScriptedSource::new([], Step::Slow(400 * MS, DAY));
    let client = client_with(source.clone(), origin(&server));
    let begun = Instant::now();
    let error = client.get(server.uri()).timeout(200 * MS).send().await.expect_err("too late");
    let took = begun.elapsed();
    assert!(took >= 190 * MS && took < 390 * MS, "{took:?}");
    let auth = auth_error(&error);
    assert_eq!((auth.kind(), auth.is_transient()), (ErrorKind::Timeout, true));
    assert!(server.received_requests().await.unwrap().is_empty());
    // The refresh went on, for the next request.
    assert!(client.get(server.uri()).timeout(Duration::from_secs(5)).send().await.is_ok());
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn the_wait_is_taken_off_the_requests_time() {
    let server = serve(ResponseTemplate::new(200).set_delay(Duration::from_secs(5))).await;
    let source = ScriptedSource::new([], Step::Slow(300 * MS, DAY));
    let begun = Instant::now();
    let error = client_with(source.clone(), origin(&server))
        .get(server.uri())
        .timeout(500 * MS)
        .send()
        .await
        .expect_err("too late");
    assert!(error.is_timeout(), "{error:?}");
    let took = begun.elapsed();
    assert!(took >= 450 * MS && took < 750 * MS, "{took:?}");
}

#[tokio::test]
async fn a_slow_replacement_gives_the_first_answer_back_in_time() {
    let server = serve(ResponseTemplate::new(401).set_body_string("first")).await;
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(Duration::from_secs(5), DAY));
    let begun = Instant::now();
    let answer = client_with(source.clone(), origin(&server))
        .get(server.uri())
        .timeout(300 * MS)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    let took = begun.elapsed();
    assert!(took >= 250 * MS && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
    // Whole, although the deadline is over.
    assert_eq!(answer.text().await.unwrap(), "first");
}

#[tokio::test]
async fn a_replay_has_what_is_left_of_the_requests_time() {
    let server = MockServer::start().await;
    let refused = ResponseTemplate::new(401).set_delay(600 * MS);
    let refused = Mock::given(any()).respond_with(refused).up_to_n_times(1);
    refused.mount(&server).await;
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(10));
    Mock::given(any()).respond_with(slow).mount(&server).await;
    let client = client_with(ScriptedSource::granting(DAY), origin(&server));
    let begun = Instant::now();
    let call = client.get(server.uri()).timeout(1_000 * MS).send();
    assert!(call.await.expect_err("too late").is_timeout());
    let took = begun.elapsed();
    assert!(took >= 900 * MS && took < 1_500 * MS, "{took:?}");
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_timeout_of_the_client_does_not_tear_the_first_answer() {
    let server = serve(ResponseTemplate::new(401).set_body_string("first")).await;
    let failing = Step::SlowFail(500 * MS, ErrorKind::Refused);
    let source = ScriptedSource::new([Step::Grant(DAY)], failing);
    let auth = AuthMiddleware::builder(TokenCache::new(source)).target(origin(&server));
    let http = reqwest::Client::builder().timeout(300 * MS).build().unwrap();
    let client = ClientBuilder::new(http).with(auth.build().unwrap()).build();
    let begun = Instant::now();
    let answer = client.get(server.uri()).send().await.unwrap();
    assert!(begun.elapsed() >= 450 * MS);
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (401, "first".to_owned()));
}

#[tokio::test]
async fn an_answer_that_never_ends_does_not_hold_the_replay_up() {
    let api = Api::start(|bearer, _| match bearer {
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
    let answer = tokio::time::timeout(Duration::from_secs(5), call).await.expect("no stall");
    assert_eq!(answer.unwrap().status().as_u16(), 200);
}
