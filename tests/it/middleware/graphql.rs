//! Authoring rejects tokens with an error code in a GraphQL response: which responses count as
//! rejections, which requests are replayed, and how much of a response is read to decide that.

use std::{io::Write as _, slice::from_ref, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use http_body::Frame;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::json;
use sitecore_auth::{AuthMiddleware, Rejections, Target, TokenCache};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use url::Url;

use crate::support::{DAY, ScriptedSource, TestApi, client_with, frames, wrap};

const SOON: Duration = Duration::from_secs(5);
const QUERY: &str = "query { item { name } }";
const MUTATION: &str = "mutation { createItem { name } }";

/// An error in Authoring's format.
fn error(code: &str, path: &str) -> String {
    format!(
        r#"{{"message":"The current user is not authorized to access this resource.","path":{path},"extensions":{{"code":"{code}"}}}}"#
    )
}

/// The error of a rejected call.
fn not_authenticated(path: &str) -> String {
    error("AUTH_NOT_AUTHENTICATED", path)
}

fn errors(errors: &[String], data: &str) -> String {
    format!(r#"{{"errors":[{}]{data}}}"#, errors.join(","))
}

/// A response that rejects the whole call: nothing was executed.
fn full_rejection() -> String {
    errors(&[not_authenticated(r#"["item"]"#)], r#","data":{"item":null}"#)
}

fn json_response(body: impl Into<Body>) -> Response<Body> {
    let response = Response::builder().header("content-type", "application/json; charset=utf-8");
    response.body(body.into()).unwrap()
}

/// An API that rejects `token-1` with the given response, and returns data for other tokens.
async fn rejecting(
    rejection: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) -> TestApi {
    TestApi::start(move |bearer, _| match bearer {
        "token-1" => rejection(),
        other => json_response(data_for(other)),
    })
    .await
}

fn data_for(token: &str) -> String {
    format!(r#"{{"data":{{"item":{{"name":"{token}"}}}}}}"#)
}

/// A body of unknown length that arrives in small pieces.
fn in_pieces(text: &str) -> Body {
    let pieces: Vec<_> = text.as_bytes().chunks(7).map(Bytes::copy_from_slice).collect();
    frames(stream::iter(pieces).map(Frame::data))
}

/// A body of unknown length that arrives byte by byte.
fn byte_by_byte(text: &str) -> Body {
    let bytes: Vec<_> = text.bytes().map(|byte| Bytes::from(vec![byte])).collect();
    frames(stream::iter(bytes).map(Frame::data))
}

fn client(api: &TestApi, source: &ScriptedSource) -> ClientWithMiddleware {
    client_with(source.clone(), Target::origin(api.origin().clone()).unwrap())
}

async fn post(client: &ClientWithMiddleware, url: Url, query: &str) -> reqwest::Response {
    let call = client.post(url).json(&json!({ "query": query }));
    timeout(SOON, call.send()).await.expect("a response").unwrap()
}

/// The response to a bulk request: this many rejected fields, each with its own error.
fn bulk_rejection(fields: usize) -> String {
    let list: Vec<_> = (0..fields).map(|at| not_authenticated(&format!(r#"["f{at}"]"#))).collect();
    let data: Vec<_> = (0..fields).map(|at| format!(r#""f{at}":null"#)).collect();
    errors(&list, &format!(r#","data":{{{}}}"#, data.join(",")))
}

#[tokio::test]
async fn a_rejection_is_seen_whatever_its_shape_and_order() {
    let path = r#"["item"]"#;
    let item = not_authenticated(path);
    for rejection in [
        full_rejection(),
        errors(&[item.clone(), not_authenticated(r#"["b"]"#)], r#","data":{"item":null,"b":null}"#),
        errors(from_ref(&item), ""),
        errors(&[not_authenticated("null")], r#","data":null"#),
        errors(from_ref(&item), r#","extensions":{"cost":-1.5e+3},"data":{"item":null}"#),
        format!("  {{ \"errors\" : [{}] , \"data\" : null }}\r\n", not_authenticated("[]")),
        format!("\u{feff}{}", full_rejection()),
        // Blanks that keep a connection alive.
        format!("{}{}", " \n".repeat(5_000), full_rejection()),
        // `data` first, and `__typename` in it.
        format!(r#"{{"data":{{"__typename":"Query","item":null}},"errors":[{item}]}}"#),
        // Alongside data and other errors.
        errors(from_ref(&item), r#","data":{"item":null,"b":1}"#),
        errors(&[error("AUTH_NOT_AUTHORIZED", r#"["b"]"#), item.clone()], r#","data":null"#),
        errors(&[error("INTERNAL", path), item.clone()], r#","data":{"item":null}"#),
        // Batches.
        format!("[{}]", full_rejection()),
        format!(r#"[{{"data":{{"b":1}}}},{}]"#, full_rejection()),
        // Longer than 16 KiB.
        bulk_rejection(90),
        bulk_rejection(400),
    ] {
        let (whole, chunked) = (rejection.clone(), rejection.clone());
        for api in [
            rejecting(move || json_response(whole.clone())).await,
            rejecting(move || json_response(in_pieces(&chunked))).await,
        ] {
            let source = ScriptedSource::granting(DAY);
            let response = post(&client(&api, &source), api.authoring(), QUERY).await;
            assert_eq!(response.text().await.unwrap(), data_for("token-2"), "{rejection}");
            assert_eq!(api.bearers(), ["token-1", "token-2"], "{rejection}");
            assert_eq!(source.calls(), 2);
        }
    }
}

#[tokio::test]
async fn a_rejection_is_seen_whatever_its_status_media_type_and_encoding() {
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    for status in [200, 201, 207, 400, 403, 404, 422, 500, 503] {
        for kind in [
            "application/json",
            "Application/GraphQL-response+JSON; charset=utf-8",
            "application/graphql+json",
            "application/problem+json",
        ] {
            for is_compressed in [false, true] {
                let api = rejecting(move || {
                    let response = Response::builder().status(status).header("content-type", kind);
                    let text = full_rejection();
                    if is_compressed {
                        let response = response.header("content-encoding", "gzip");
                        return response.body(gzip(&text).into()).unwrap();
                    }
                    response.body(text.into()).unwrap()
                })
                .await;
                let source = ScriptedSource::granting(DAY);
                let response = post(&client(&api, &source), api.authoring(), QUERY).await;
                let text = response.text().await.unwrap();
                assert_eq!(text, data_for("token-2"), "{status} {kind} {is_compressed}");
            }
        }
    }
}

#[tokio::test]
async fn an_operation_that_is_not_clearly_a_query_is_replayed_only_with_proof() {
    let unproved = || errors(&[not_authenticated(r#"["item"]"#)], r#","data":null"#);
    for (body, is_clear) in [
        (json!({"query": QUERY}), true),
        (json!([{"query": QUERY}]), true),
        (json!({"query": MUTATION}), false),
        (json!({"query": "", "id": "persisted-mutation"}), false),
        (json!({"id": "persisted-mutation"}), false),
        (json!({"extensions": {"persistedQuery": {"sha256Hash": "x"}}}), false),
        (json!([{"query": QUERY}, {"query": MUTATION}]), false),
    ] {
        for (rejection, is_proof) in [(unproved(), false), (full_rejection(), true)] {
            let text = rejection.clone();
            let api = rejecting(move || json_response(text.clone())).await;
            let source = ScriptedSource::granting(DAY);
            let client = client(&api, &source);
            let response = client.post(api.authoring()).json(&body).send().await.unwrap();
            let is_replayed = is_clear || is_proof;
            let expected = if is_replayed { data_for("token-2") } else { rejection };
            assert_eq!(response.text().await.unwrap(), expected, "{body}");
            // The token is replaced in any case.
            assert_eq!((source.calls(), api.bearers().len()), (2, 1 + usize::from(is_replayed)));
        }
    }
}

#[tokio::test]
async fn a_mutation_is_replayed_if_nothing_was_executed() {
    // The proof may take more than 16 KiB.
    for rejection in [full_rejection(), bulk_rejection(90), bulk_rejection(400)] {
        let api = rejecting(move || json_response(in_pieces(&rejection))).await;
        let response =
            post(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), MUTATION).await;
        assert_eq!(response.text().await.unwrap(), data_for("token-2"));
        assert_eq!(api.bearers(), ["token-1", "token-2"]);
    }
}

#[tokio::test]
async fn a_mutation_that_may_have_been_partly_executed_is_not_replayed() {
    for data in ["", r#","data":null"#, r#","data":{}"#] {
        let rejection = errors(&[not_authenticated(r#"["createItem"]"#)], data);
        let body = rejection.clone();
        let api = rejecting(move || json_response(body.clone())).await;
        let source = ScriptedSource::granting(DAY);
        let client = client(&api, &source);
        let response = post(&client, api.authoring(), MUTATION).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.text().await.unwrap(), rejection);
        // Nevertheless, the token was replaced before the response was returned.
        assert_eq!((api.bearers().len(), source.calls()), (1, 2));
        let response = post(&client, api.authoring(), MUTATION).await;
        assert_eq!(response.text().await.unwrap(), data_for("token-2"));
    }
}

#[tokio::test]
async fn a_mutation_is_not_replayed_if_a_401_says_that_a_part_was_executed() {
    let partly = errors(&[not_authenticated(r#"["b"]"#)], r#","data":{"a":{"id":1},"b":null}"#);
    let batch = format!(r#"[{{"data":{{"a":1}}}},{}]"#, full_rejection());
    let rejected = r#"Bearer error="invalid_token""#;
    // These have no error with the code.
    let forbidden = errors(&[error("AUTH_NOT_AUTHORIZED", r#"["b"]"#)], r#","data":{"b":null}"#);
    let executed = r#"{"data":{"a":{"id":1}}}"#.to_owned();
    let executed_in_batch = format!(r#"[{{"data":null}},{executed}]"#);
    for (body, calls) in [
        (partly, 1),
        (batch, 1),
        (forbidden, 1),
        (executed, 1),
        (executed_in_batch, 1),
        (full_rejection(), 2),
        (r#"{"title":"Unauthorized","status":401}"#.to_owned(), 2),
        ("no".to_owned(), 2),
    ] {
        for status in [401, 403] {
            let text = body.clone();
            let api = rejecting(move || {
                let response =
                    Response::builder().status(status).header("www-authenticate", rejected);
                let response = response.header("content-type", "application/json; x=\"\u{e9}\"");
                response.body(text.clone().into()).unwrap()
            })
            .await;
            let source = ScriptedSource::granting(DAY);
            let response = post(&client(&api, &source), api.authoring(), MUTATION).await;
            let _ = response.text().await.unwrap();
            assert_eq!((api.bearers().len(), source.calls()), (calls, 2), "{status} {body}");
        }
    }
}

#[tokio::test]
async fn a_predicate_sees_no_streams_and_may_panic() {
    let api = TestApi::start(|_, _| {
        let response = Response::builder().header("content-type", "text/event-stream");
        response.body(frames(stream::pending())).unwrap()
    })
    .await;
    let with = |rejections| {
        let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)));
        let auth = auth.target(Target::origin(api.origin().clone()).unwrap());
        wrap(auth.rejections(rejections).build().unwrap())
    };
    let client = with(Rejections::default().when(StatusCode::OK, |_, _| true));
    timeout(SOON, client.get(api.origin().clone()).send()).await.expect("the head").unwrap();
    let plain = rejecting(|| json_response("{}")).await;
    let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)))
        .target(Target::origin(plain.origin().clone()).unwrap())
        .rejections(Rejections::default().when(StatusCode::OK, |_, _| panic!("scripted")));
    let client = wrap(auth.build().unwrap());
    let response = client.get(plain.origin().clone()).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "{}");
}

#[tokio::test]
async fn responses_that_do_not_reject_the_token_are_passed_through_unchanged() {
    let path = r#"["item"]"#;
    let padding = " ".repeat(16 * 1024);
    for body in [
        errors(&[error("AUTH_NOT_AUTHORIZED", "null")], r#","data":null"#),
        errors(&[error("AUTH_NOT_AUTHORIZED", path)], r#","data":{"item":null}"#),
        errors(&[format!(r#"{{"message":"AUTH_NOT_AUTHENTICATED","path":{path}}}"#)], r#","data":{"item":null}"#),
        errors(&[], r#","data":{"item":null}"#),
        // Inside a string of real data.
        r#"{"data":{"item":"{\"errors\":[{\"extensions\":{\"code\":\"AUTH_NOT_AUTHENTICATED\"}}]}"}}"#.to_owned(),
        // Invalid JSON, truncated JSON, an empty body.
        full_rejection().replace("null", "nul"),
        full_rejection()[..60].to_owned(),
        String::new(),
    ] {
        let (whole, chunked) = (body.clone(), body.clone());
        for api in [
            rejecting(move || json_response(whole.clone())).await,
            rejecting(move || json_response(in_pieces(&chunked))).await,
        ] {
            let source = ScriptedSource::granting(DAY);
            let response = post(&client(&api, &source), api.authoring(), QUERY).await;
            assert_eq!(response.text().await.unwrap(), body);
            assert_eq!((api.bearers().len(), source.calls()), (1, 1), "{body}");
        }
    }
    // Not within the 16 KiB that are read.
    let body = format!("{padding}{}", full_rejection());
    let late = body.clone();
    let api = rejecting(move || json_response(in_pieces(&late))).await;
    let source = ScriptedSource::granting(DAY);
    let response = post(&client(&api, &source), api.authoring(), QUERY).await;
    assert_eq!((response.text().await.unwrap(), source.calls()), (body, 1));
}

#[tokio::test]
async fn only_json_responses_of_authoring_are_inspected() {
    let rejection_as = |kind: &'static str| {
        move || {
            let response = Response::builder().header("content-type", kind);
            response.body(full_rejection().into()).unwrap()
        }
    };
    for kind in ["text/html", "application/jsonp", "text/event-stream", "multipart/mixed", ""] {
        let api = rejecting(rejection_as(kind)).await;
        let response =
            post(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
        assert_eq!(response.text().await.unwrap(), full_rejection(), "{kind}");
    }
    let api = rejecting(rejection_as("application/json")).await;
    for path in ["/graphql", "/sitecore/apis/graphql", "/api/graphql/v1"] {
        let response = post(
            &client(&api, &ScriptedSource::granting(DAY)),
            api.origin().join(path).unwrap(),
            QUERY,
        )
        .await;
        assert_eq!(response.text().await.unwrap(), full_rejection(), "{path}");
    }
    // Nothing is inspected if this is disabled.
    let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)))
        .target(Target::origin(api.origin().clone()).unwrap())
        .rejections(Rejections::default().graphql(false));
    let response = post(&wrap(auth.build().unwrap()), api.authoring(), QUERY).await;
    assert_eq!(response.text().await.unwrap(), full_rejection());
    assert!(api.bearers().iter().all(|bearer| bearer == "token-1"));
}

#[tokio::test]
async fn a_stream_is_passed_on_as_it_arrives() {
    for kind in ["text/event-stream", "multipart/mixed; boundary=-"] {
        let resume = Arc::new(Notify::new());
        let rest = Arc::clone(&resume);
        let api = TestApi::start(move |_, _| {
            let rest = Arc::clone(&rest);
            let begin = stream::iter([Frame::data(Bytes::from_static(b"begin"))]);
            let end = stream::once(async move {
                rest.notified().await;
                Frame::data(Bytes::from_static(b"the end"))
            });
            let response = Response::builder().header("content-type", kind);
            response.body(frames(begin.chain(end))).unwrap()
        })
        .await;
        let source = ScriptedSource::granting(DAY);
        // `post` times out if the head does not arrive.
        let mut response = post(&client(&api, &source), api.authoring(), QUERY).await;
        let first = timeout(SOON, response.chunk()).await.expect("the start").unwrap();
        assert_eq!(first.as_deref(), Some(&b"begin"[..]));
        resume.notify_one();
        let last = timeout(SOON, response.chunk()).await.expect("the rest").unwrap();
        assert_eq!(last.as_deref(), Some(&b"the end"[..]));
    }
}

#[tokio::test]
async fn a_403_that_says_invalid_token_is_a_rejection() {
    for (challenge, is_rejection) in [
        (r#"Bearer error="invalid_token""#, true),
        (r#"Basic realm="a", bearer realm="b", error=invalid_token, scope="c""#, true),
        (r#"Bearer error="insufficient_scope""#, false),
        ("Bearer", false),
        (r#"Basic error="invalid_token""#, false),
        ("", false),
    ] {
        let api = rejecting(move || {
            let response = Response::builder().status(403).header("www-authenticate", challenge);
            response.body(Body::empty()).unwrap()
        })
        .await;
        let source = ScriptedSource::granting(DAY);
        let response = client(&api, &source).post(api.origin().clone()).send().await.unwrap();
        let expected = if is_rejection { StatusCode::OK } else { StatusCode::FORBIDDEN };
        assert_eq!(response.status(), expected, "{challenge}");
        assert_eq!(source.calls(), 1 + usize::from(is_rejection), "{challenge}");
    }
}

#[tokio::test]
async fn a_403_and_other_responses_can_be_configured_as_rejections() {
    let forbidden =
        |body: &'static str| move || Response::builder().status(403).body(body.into()).unwrap();
    let custom_client = |api: &TestApi, rejections| {
        let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)));
        let auth = auth.target(Target::origin(api.origin().clone()).unwrap());
        wrap(auth.rejections(rejections).build().unwrap())
    };
    let body = r#"{"title":"Forbidden","detail":"Token has expired."}"#;
    let api = rejecting(forbidden(body)).await;
    let url = || api.origin().join("/api/brands/v1").unwrap();
    let response = custom_client(&api, Rejections::default()).get(url()).send().await.unwrap();
    assert_eq!(
        (response.status(), response.text().await.unwrap()),
        (StatusCode::FORBIDDEN, body.to_owned())
    );
    let response =
        custom_client(&api, Rejections::default().expired_403()).get(url()).send().await.unwrap();
    assert_eq!(
        (response.status(), response.text().await.unwrap()),
        (StatusCode::OK, data_for("token-2"))
    );

    let api = rejecting(forbidden("You may not")).await;
    let response = custom_client(&api, Rejections::default().expired_403())
        .get(api.origin().clone())
        .send()
        .await
        .unwrap();
    assert_eq!(
        (response.status(), response.text().await.unwrap()),
        (StatusCode::FORBIDDEN, "You may not".to_owned())
    );
    assert_eq!(api.bearers(), ["token-1"]);

    let api = rejecting(|| {
        let response = Response::builder().status(498).header("x-why", "token");
        response.body("x".repeat(40_000).into()).unwrap()
    })
    .await;
    let invalid = StatusCode::from_u16(498).unwrap();
    assert!(format!("{:?}", Rejections::default().expired_403()).contains("403"));
    // The predicate sees the body up to the limit. The caller gets all of it.
    let never = Rejections::default().when(invalid, |_, body| body.len() != 16 * 1024);
    let response = custom_client(&api, never).get(api.origin().clone()).send().await.unwrap();
    assert_eq!(response.text().await.unwrap().len(), 40_000);
    let always = Rejections::default()
        .when(invalid, |_, _| false)
        .when(invalid, |headers, _| headers["x-why"] == "token");
    let response = custom_client(&api, always).get(api.origin().clone()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_response_that_arrives_byte_by_byte_costs_little() {
    // White space and a long message, which decide nothing.
    let long = format!(
        "{}{}",
        " ".repeat(7_000),
        errors(&[error("OTHER", "null").replace("The", &"x".repeat(7_000))], "")
    );
    let api = TestApi::start(move |_, _| json_response(byte_by_byte(&long))).await;
    let with_auth = client(&api, &ScriptedSource::granting(DAY));
    let bare = reqwest::Client::new();
    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        let started = Instant::now();
        post(&with_auth, api.authoring(), QUERY).await.bytes().await.unwrap();
        ours = ours.min(started.elapsed());
        let started = Instant::now();
        bare.post(api.authoring()).send().await.unwrap().bytes().await.unwrap();
        theirs = theirs.min(started.elapsed());
    }
    println!("{ours:?} with the middleware, {theirs:?} without");
    assert!(ours < 3 * theirs, "{ours:?} with the middleware, {theirs:?} without");
}

#[tokio::test]
async fn a_401_whose_body_does_not_arrive_whole_does_not_prove_that_nothing_was_executed() {
    let long = "x".repeat(100 * 1024);
    let data = format!(r#"{{"data":{{"a":{{"id":1,"name":"{long}"}},"b":null}},"errors":[]}}"#);
    let errors = format!(
        r#"{{"errors":[{{"message":"{long}","extensions":{{"code":"AUTH_NOT_AUTHENTICATED"}}}}],"data":{{"a":1}}}}"#
    );
    let whole = r#"{"message":"no token"}"#.to_owned();
    for (body, calls) in [(data, 1), (errors, 1), (whole, 2)] {
        let api = rejecting(move || {
            let response =
                Response::builder().status(401).header("content-type", "application/json");
            response.body(in_pieces(&body)).unwrap()
        });
        let api = api.await;
        let source = ScriptedSource::granting(DAY);
        post(&client(&api, &source), api.authoring(), MUTATION).await;
        assert_eq!(api.bearers().len(), calls);
    }
}
