//! Authoring rejects tokens with HTTP 200: which responses count as rejections, and how much of a
//! response is read to decide that.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
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

#[tokio::test]
async fn a_rejection_with_status_200_is_handled_like_a_401() {
    for rejection in [
        full_rejection(),
        errors(
            &[not_authenticated(r#"["item"]"#), not_authenticated(r#"["b"]"#)],
            r#","data":{"item":null,"b":null}"#,
        ),
        errors(&[not_authenticated(r#"["item"]"#)], ""),
        errors(&[not_authenticated("null")], r#","data":null"#),
        errors(
            &[not_authenticated(r#"["item"]"#)],
            r#","extensions":{"cost":-1.5e+3},"data":{"item":null}"#,
        ),
        format!("  {{ \"errors\" : [{}] , \"data\" : null }}\r\n", not_authenticated("[]")),
    ] {
        let (whole, chunked) = (rejection.clone(), rejection.clone());
        for api in [
            rejecting(move || json_response(whole.clone())).await,
            rejecting(move || json_response(byte_by_byte(&chunked))).await,
        ] {
            let source = ScriptedSource::granting(DAY);
            let response = post(&client(&api, &source), api.authoring(), QUERY).await;
            assert_eq!(response.text().await.unwrap(), data_for("token-2"), "{rejection}");
            assert_eq!(api.bearers(), ["token-1", "token-2"], "{rejection}");
            assert_eq!(source.calls(), 2);
        }
    }
    // If the length is known, `data` may come first. GraphQL has its own media type.
    let api = rejecting(|| {
        let body = format!(
            r#"{{"data":{{"item":null}},"errors":[{}]}}"#,
            not_authenticated(r#"["item"]"#)
        );
        let response =
            Response::builder().header("content-type", "Application/GraphQL-response+JSON");
        response.body(body.into()).unwrap()
    })
    .await;
    let response =
        post(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
    assert_eq!(response.text().await.unwrap(), data_for("token-2"));
}

#[tokio::test]
async fn a_mutation_is_replayed_if_nothing_was_executed() {
    let api = rejecting(|| json_response(full_rejection())).await;
    let response =
        post(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), MUTATION).await;
    assert_eq!(response.text().await.unwrap(), data_for("token-2"));
    assert_eq!(api.bearers(), ["token-1", "token-2"]);
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
async fn responses_that_do_not_reject_the_token_are_passed_through_unchanged() {
    let path = r#"["item"]"#;
    let padding = " ".repeat(16 * 1024);
    for body in [
        // With real data, or with a member that no error names.
        errors(&[not_authenticated(path)], r#","data":{"item":null,"b":1}"#),
        errors(&[not_authenticated(path)], r#","data":{"item":null,"b":null}"#),
        errors(&[not_authenticated(r#"["item","name"]"#)], r#","data":{"item":null}"#),
        // Alongside another error, or with another code.
        errors(&[not_authenticated(path), error("INTERNAL", "[\"b\"]")], r#","data":{"item":null,"b":null}"#),
        errors(&[not_authenticated(path), error("INTERNAL", path)], r#","data":{"item":null}"#),
        errors(&[error("AUTH_NOT_AUTHORIZED", "null")], r#","data":null"#),
        errors(&[error("AUTH_NOT_AUTHORIZED", path)], r#","data":{"item":null}"#),
        errors(&[format!(r#"{{"message":"AUTH_NOT_AUTHENTICATED","path":{path}}}"#)], r#","data":{"item":null}"#),
        errors(&[], r#","data":{"item":null}"#),
        // Inside a string of real data.
        r#"{"data":{"item":"{\"errors\":[{\"extensions\":{\"code\":\"AUTH_NOT_AUTHENTICATED\"}}]}"}}"#.to_owned(),
        // A batch, invalid JSON, truncated JSON, an empty body.
        format!("[{}]", full_rejection()),
        full_rejection().replace("null", "nul"),
        full_rejection()[..60].to_owned(),
        String::new(),
        // Longer than the 16 KiB that are read.
        format!("{padding}{}", full_rejection()),
    ] {
        let (whole, chunked) = (body.clone(), body.clone());
        for api in [
            rejecting(move || json_response(whole.clone())).await,
            rejecting(move || json_response(byte_by_byte(&chunked))).await,
        ] {
            let source = ScriptedSource::granting(DAY);
            let response = post(&client(&api, &source), api.authoring(), QUERY).await;
            assert_eq!(response.text().await.unwrap(), body);
            assert_eq!((api.bearers().len(), source.calls()), (1, 1), "{body}");
        }
    }
    // A rejection of exactly 16 KiB counts, but a longer one does not.
    let longest = format!("{:1$}", full_rejection(), 16 * 1024);
    let api = rejecting(move || json_response(longest.clone())).await;
    let response =
        post(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
    assert_eq!(response.text().await.unwrap(), data_for("token-2"));
    let too_long = format!("{}{padding}", full_rejection());
    let api = rejecting(move || json_response(too_long.clone())).await;
    let response =
        post(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
    assert_eq!(response.text().await.unwrap().len(), full_rejection().len() + padding.len());
    assert_eq!(api.bearers(), ["token-1"]);
}

#[tokio::test]
async fn only_json_responses_of_authoring_with_status_200_are_inspected() {
    let rejection_with = |status: u16, kind: &'static str| {
        move || {
            let response = Response::builder().status(status).header("content-type", kind);
            response.body(full_rejection().into()).unwrap()
        }
    };
    for (status, kind) in [
        (201, "application/json"),
        (400, "application/json"),
        (403, "application/json"),
        (200, "text/html"),
        (200, ""),
    ] {
        let api = rejecting(rejection_with(status, kind)).await;
        let response =
            post(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
        assert_eq!(response.text().await.unwrap(), full_rejection(), "{status} {kind}");
    }
    let api = rejecting(rejection_with(200, "application/json")).await;
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

/// An API whose response begins with `begin`, and ends when notified.
async fn pausing(begin: &'static str, length: Option<usize>) -> (TestApi, Arc<Notify>) {
    let resume = Arc::new(Notify::new());
    let rest = Arc::clone(&resume);
    let api = TestApi::start(move |_, _| {
        let rest = Arc::clone(&rest);
        let begin = stream::iter([Frame::data(begin.into())]);
        let end = stream::once(async move {
            rest.notified().await;
            Frame::data(Bytes::from_static(b"the end"))
        });
        let mut response = json_response(frames(begin.chain(end)));
        if let Some(length) = length {
            response.headers_mut().insert("content-length", length.into());
        }
        response
    })
    .await;
    (api, resume)
}

#[tokio::test]
async fn a_slow_response_is_passed_on_as_soon_as_a_rejection_is_ruled_out() {
    let other = r#"{"errors":[{"message":"m","path":["a"],"extensions":{"code":"OTHER"}}"#;
    let unnamed = r#"{"errors":[{"path":["a"],"extensions":{"code":"AUTH_NOT_AUTHENTICATED"}}],"data":{"b":null},"#;
    for (begin, has_length) in [
        (r#"{"data":{"#, false),
        (r#"{"extensions":"#, false),
        ("[", false),
        (other, false),
        (other, true),
        (r#"{"data":{"item":{"#, true),
        (r#"{"data":{"item":"x"#, true),
        (r#"{"data":"x"#, true),
        (r#"{"errors":[],"#, false),
        (unnamed, false),
        ("<html>", true),
    ] {
        let (api, resume) = pausing(begin, has_length.then_some(begin.len() + 7)).await;
        let source = ScriptedSource::granting(DAY);
        // `post` times out if the head does not arrive.
        let mut response = post(&client(&api, &source), api.authoring(), QUERY).await;
        let first = timeout(SOON, response.chunk()).await.expect("the start").unwrap();
        assert_eq!(first.as_deref(), Some(begin.as_bytes()));
        resume.notify_one();
        let last = timeout(SOON, response.chunk()).await.expect("the rest").unwrap();
        assert_eq!(last.as_deref(), Some(&b"the end"[..]));
        assert_eq!(source.calls(), 1);
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
