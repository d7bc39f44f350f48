//! A body that the middleware has read behaves like an untouched one, whatever the timeouts and
//! windows, and whether the caller reads it at once or late.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use http::Response;
use http_body::Frame;
use reqwest::Client;
use reqwest_middleware::ClientWithMiddleware;
use sitecore_auth::{AuthMiddleware, Target, TokenCache, TokenSource};
use tokio::time::{Instant, sleep};
use url::Url;

use crate::support::{AfterWrite, DAY, RawServer, ScriptedSource, Step, TestApi, frames};

const MS: Duration = Duration::from_millis(1);
const DATA: &str = r#"{"data":{"a":1}}"#;

fn with_auth(http: Client, source: impl TokenSource, api: &TestApi) -> ClientWithMiddleware {
    let auth = AuthMiddleware::builder(TokenCache::new(source))
        .target(Target::origin(api.origin().clone()).unwrap());
    reqwest_middleware::ClientBuilder::new(http).with(auth.build().unwrap()).build()
}

/// A body whose pieces arrive at this interval.
fn slow(pieces: Vec<Bytes>, pause: Duration) -> Body {
    frames(stream::iter(pieces).then(move |piece| async move {
        sleep(pause).await;
        Frame::data(piece)
    }))
}

fn json(body: impl Into<Body>) -> Response<Body> {
    let response = Response::builder().header("content-type", "application/json");
    response.body(body.into()).unwrap()
}

#[tokio::test]
async fn a_body_that_is_read_late_outlives_the_read_timeout() {
    let pieces = || vec![Bytes::from_static(b"  "), Bytes::from_static(DATA.as_bytes())];
    let api = TestApi::start(move |_, request| match request.uri().query() {
        Some("slow") => json(slow(pieces(), 30 * MS)),
        Some("long") => json(format!("{DATA:16384}")),
        _ => json(DATA),
    })
    .await;
    let http = || Client::builder().read_timeout(300 * MS);
    for http in [http(), http().http2_prior_knowledge()] {
        let http = http.build().unwrap();
        let client = with_auth(http.clone(), ScriptedSource::granting(DAY), &api);
        for case in ["", "slow", "long"] {
            let url = format!("{}?{case}", api.authoring());
            let late = client.post(&url).send().await.unwrap();
            let bare = http.post(&url).send().await.unwrap();
            sleep(600 * MS).await;
            let (late, bare) = (late.text().await, bare.text().await);
            assert_eq!(late.unwrap(), bare.unwrap(), "{case}");
        }
    }
}

#[tokio::test]
async fn a_rejected_body_outlives_client_timeouts_while_the_refresh_fails() {
    let api = TestApi::start(|_, request| {
        let length = if request.uri().query() == Some("long") { 100_000 } else { 17_000 };
        let body = "x".repeat(length);
        let response = Response::builder().status(401);
        match request.uri().path() {
            "/chunked" => {
                let pieces: Vec<_> =
                    body.as_bytes().chunks(5_000).map(Bytes::copy_from_slice).collect();
                response.body(frames(stream::iter(pieces).map(Frame::data))).unwrap()
            }
            _ => response.body(body.into()).unwrap(),
        }
    })
    .await;
    let builder = || Client::builder().read_timeout(250 * MS);
    let clients =
        [builder(), builder().http2_prior_knowledge(), Client::builder().timeout(250 * MS)];
    for http in clients {
        let http = http.build().unwrap();
        for path in ["/", "/?long", "/chunked", "/chunked?long"] {
            let failing = Step::SlowFail(600 * MS, sitecore_auth::ErrorKind::Refused);
            let source = ScriptedSource::new([Step::Grant(DAY)], failing);
            let client = with_auth(http.clone(), source, &api);
            let response = client.get(api.origin().join(path).unwrap()).send().await.unwrap();
            sleep(400 * MS).await;
            let length = if path.ends_with("long") { 100_000 } else { 17_000 };
            assert_eq!(response.status().as_u16(), 401);
            assert_eq!(response.text().await.map(|text| text.len()).unwrap(), length, "{path}");
        }
    }
}

#[tokio::test]
async fn a_rejected_response_of_more_than_128_kib_is_returned_before_the_refresh_ends() {
    for is_chunked in [false, true] {
        let api = TestApi::start(move |bearer, _| {
            if bearer != "token-1" {
                return json(DATA);
            }
            let body = vec![b'x'; 300_000];
            let pieces: Vec<_> = body.chunks(8_192).map(Bytes::copy_from_slice).collect();
            let pieces = frames(stream::iter(pieces).map(Frame::data));
            let body = if is_chunked { pieces } else { body.into() };
            Response::builder().status(401).body(body).unwrap()
        })
        .await;
        let source = ScriptedSource::new([Step::Grant(DAY)], Step::Slow(700 * MS, DAY));
        let client = with_auth(Client::new(), source.clone(), &api);
        let started = Instant::now();
        let response = client.get(api.origin().clone()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 401);
        assert!(started.elapsed() < 600 * MS, "{:?}", started.elapsed());
        assert_eq!(response.bytes().await.unwrap().len(), 300_000);
        // The token is replaced nevertheless.
        sleep(1_000 * MS).await;
        assert_eq!(source.calls(), 2);
        let response = client.get(api.origin().clone()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        // Now that there is another token, such a response does not prevent a replay.
        assert_eq!(api.bearers().last().unwrap(), "token-2");
    }
}

#[tokio::test]
async fn rejected_responses_do_not_hold_up_others_on_the_same_connection() {
    let api = TestApi::start(|_, request| match request.uri().path() {
        "/healthy" => json("x".repeat(100_000)),
        _ => Response::builder().status(401).body("x".repeat(60_000).into()).unwrap(),
    })
    .await;
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Hang);
    // A small window, so that unread responses would fill it.
    let http = Client::builder()
        .http2_prior_knowledge()
        .http2_initial_connection_window_size(1 << 20)
        .http2_initial_stream_window_size(1 << 17)
        .build()
        .unwrap();
    let client = with_auth(http, source, &api);
    let url = |path: &str| api.origin().join(path).unwrap();
    let rejected = join_all((0..100).map(|_| client.get(url("/rejected")).send()));
    let healthy = async {
        sleep(500 * MS).await;
        let started = Instant::now();
        let response = client.get(url("/healthy")).send().await.unwrap();
        assert_eq!(response.text().await.unwrap().len(), 100_000);
        started.elapsed()
    };
    tokio::select! {
        _ = rejected => panic!("the refresh hangs"),
        elapsed = healthy => assert!(elapsed < Duration::from_secs(3), "{elapsed:?}"),
    }
}

#[tokio::test]
async fn a_rejected_body_that_stalls_does_not_hold_up_its_response() {
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let bytes = format!("HTTP/1.1 401 No\r\n{head}\r\n\r\n3\r\nabc\r\n");
        let server = RawServer::start(bytes, AfterWrite::Hang).await;
        let origin: Url = format!("http://127.0.0.1:{}", server.port()).parse().unwrap();
        let failing = Step::Fail(sitecore_auth::ErrorKind::Refused);
        let source = ScriptedSource::new([Step::Grant(DAY)], failing);
        let auth = AuthMiddleware::builder(TokenCache::new(source));
        let auth = auth.target(Target::origin(origin.clone()).unwrap()).build().unwrap();
        let client = auth.into_client(Client::builder()).unwrap();
        let call = tokio::time::timeout(Duration::from_secs(5), client.get(origin).send());
        assert_eq!(call.await.expect("the head").unwrap().status().as_u16(), 401, "{head}");
    }
}

#[tokio::test]
async fn a_slow_rejected_body_of_unknown_length_outlives_the_read_timeout() {
    let api = TestApi::start(|_, _| {
        let pieces = ["abc"; 3].map(|piece| Bytes::from_static(piece.as_bytes()));
        Response::builder().status(401).body(slow(pieces.into(), 100 * MS)).unwrap()
    })
    .await;
    let http = Client::builder().read_timeout(400 * MS).build().unwrap();
    let failing = Step::SlowFail(50 * MS, sitecore_auth::ErrorKind::Refused);
    let client = with_auth(http, ScriptedSource::new([Step::Grant(DAY)], failing), &api);
    let response = client.get(api.origin().clone()).send().await.unwrap();
    sleep(900 * MS).await;
    assert_eq!(response.text().await.unwrap(), "abcabcabc");
}
