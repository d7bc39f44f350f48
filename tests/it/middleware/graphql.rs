//! Authoring says with HTTP 200 that a token is no good: what counts as that, what does not, and how much
//! of an answer is read to find out.

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

use crate::support::{Api, DAY, ScriptedSource, client_with, frames, wrap};

const SOON: Duration = Duration::from_secs(5);
const QUERY: &str = "query { item { name } }";
const MUTATION: &str = "mutation { createItem { name } }";

/// An error as Authoring writes it.
fn error(code: &str, path: &str) -> String {
    format!(
        r#"{{"message":"The current user is not authorized to access this resource.","path":{path},"extensions":{{"code":"{code}"}}}}"#
    )
}

/// Every error of a refused call: this one.
fn refused(path: &str) -> String {
    error("AUTH_NOT_AUTHENTICATED", path)
}

fn errors(errors: &[String], data: &str) -> String {
    format!(r#"{{"errors":[{}]{data}}}"#, errors.join(","))
}

/// The whole call refused, nothing executed.
fn whole_refusal() -> String {
    errors(&[refused(r#"["item"]"#)], r#","data":{"item":null}"#)
}

fn json_answer(body: impl Into<Body>) -> Response<Body> {
    let answer = Response::builder().header("content-type", "application/json; charset=utf-8");
    answer.body(body.into()).unwrap()
}

/// Refuses the first token as it is told, and answers others with data.
async fn refusing(refusal: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static) -> Api {
    Api::start(move |bearer, _| match bearer {
        "token-1" => refusal(),
        other => json_answer(data_for(other)),
    })
    .await
}

fn data_for(token: &str) -> String {
    format!(r#"{{"data":{{"item":{{"name":"{token}"}}}}}}"#)
}

/// A body of unknown length, byte by byte.
fn pieces(text: &str) -> Body {
    let bytes: Vec<_> = text.bytes().map(|byte| Bytes::from(vec![byte])).collect();
    frames(stream::iter(bytes).map(Frame::data))
}

fn client(api: &Api, source: &ScriptedSource) -> ClientWithMiddleware {
    client_with(source.clone(), Target::origin(api.origin().clone()).unwrap())
}

async fn ask(client: &ClientWithMiddleware, url: Url, query: &str) -> reqwest::Response {
    let call = client.post(url).json(&json!({ "query": query }));
    timeout(SOON, call.send()).await.expect("an answer").unwrap()
}

#[tokio::test]
async fn a_refusal_in_an_answer_200_is_healed_like_a_401() {
    for refusal in [
        whole_refusal(),
        errors(&[refused(r#"["item"]"#), refused(r#"["b"]"#)], r#","data":{"item":null,"b":null}"#),
        errors(&[refused(r#"["item"]"#)], ""),
        errors(&[refused("null")], r#","data":null"#),
        errors(&[refused(r#"["item"]"#)], r#","extensions":{"cost":-1.5e+3},"data":{"item":null}"#),
        format!("  {{ \"errors\" : [{}] , \"data\" : null }}\r\n", refused("[]")),
    ] {
        let (whole, chunked) = (refusal.clone(), refusal.clone());
        for api in [
            refusing(move || json_answer(whole.clone())).await,
            refusing(move || json_answer(pieces(&chunked))).await,
        ] {
            let source = ScriptedSource::granting(DAY);
            let answer = ask(&client(&api, &source), api.authoring(), QUERY).await;
            assert_eq!(answer.text().await.unwrap(), data_for("token-2"), "{refusal}");
            assert_eq!(api.bearers(), ["token-1", "token-2"], "{refusal}");
            assert_eq!(source.calls(), 2);
        }
    }
    // If the length is known, `data` may come first; and GraphQL has a media type of its own.
    let api = refusing(|| {
        let body = format!(r#"{{"data":{{"item":null}},"errors":[{}]}}"#, refused(r#"["item"]"#));
        let answer =
            Response::builder().header("content-type", "Application/GraphQL-response+JSON");
        answer.body(body.into()).unwrap()
    })
    .await;
    let answer = ask(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
    assert_eq!(answer.text().await.unwrap(), data_for("token-2"));
}

#[tokio::test]
async fn a_mutation_of_which_nothing_was_executed_is_sent_again() {
    let api = refusing(|| json_answer(whole_refusal())).await;
    let answer =
        ask(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), MUTATION).await;
    assert_eq!(answer.text().await.unwrap(), data_for("token-2"));
    assert_eq!(api.bearers(), ["token-1", "token-2"]);
}

#[tokio::test]
async fn a_mutation_that_may_have_been_executed_in_part_is_not_sent_again() {
    for data in ["", r#","data":null"#, r#","data":{}"#] {
        let refusal = errors(&[refused(r#"["createItem"]"#)], data);
        let words = refusal.clone();
        let api = refusing(move || json_answer(words.clone())).await;
        let source = ScriptedSource::granting(DAY);
        let client = client(&api, &source);
        let answer = ask(&client, api.authoring(), MUTATION).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.text().await.unwrap(), refusal);
        // The token was replaced nevertheless, by the time the answer came back.
        assert_eq!((api.bearers().len(), source.calls()), (1, 2));
        let answer = ask(&client, api.authoring(), MUTATION).await;
        assert_eq!(answer.text().await.unwrap(), data_for("token-2"));
    }
}

#[tokio::test]
async fn what_is_no_refusal_is_passed_through_byte_for_byte() {
    let path = r#"["item"]"#;
    let padding = " ".repeat(16 * 1024);
    for body in [
        // Beside real data, or with a member that no error names.
        errors(&[refused(path)], r#","data":{"item":null,"b":1}"#),
        errors(&[refused(path)], r#","data":{"item":null,"b":null}"#),
        errors(&[refused(r#"["item","name"]"#)], r#","data":{"item":null}"#),
        // Beside another error, or of another kind.
        errors(&[refused(path), error("INTERNAL", "[\"b\"]")], r#","data":{"item":null,"b":null}"#),
        errors(&[refused(path), error("INTERNAL", path)], r#","data":{"item":null}"#),
        errors(&[error("AUTH_NOT_AUTHORIZED", "null")], r#","data":null"#),
        errors(&[error("AUTH_NOT_AUTHORIZED", path)], r#","data":{"item":null}"#),
        errors(&[format!(r#"{{"message":"AUTH_NOT_AUTHENTICATED","path":{path}}}"#)], r#","data":{"item":null}"#),
        errors(&[], r#","data":{"item":null}"#),
        // In a string of real data.
        r#"{"data":{"item":"{\"errors\":[{\"extensions\":{\"code\":\"AUTH_NOT_AUTHENTICATED\"}}]}"}}"#.to_owned(),
        // Several answers in one, no JSON, nothing.
        format!("[{}]", whole_refusal()),
        whole_refusal().replace("null", "nul"),
        whole_refusal()[..60].to_owned(),
        String::new(),
        // Longer than anything that refuses.
        format!("{padding}{}", whole_refusal()),
    ] {
        let (whole, chunked) = (body.clone(), body.clone());
        for api in [
            refusing(move || json_answer(whole.clone())).await,
            refusing(move || json_answer(pieces(&chunked))).await,
        ] {
            let source = ScriptedSource::granting(DAY);
            let answer = ask(&client(&api, &source), api.authoring(), QUERY).await;
            assert_eq!(answer.text().await.unwrap(), body);
            assert_eq!((api.bearers().len(), source.calls()), (1, 1), "{body}");
        }
    }
    // By its length alone, and not a byte too early.
    let most = format!("{:1$}", whole_refusal(), 16 * 1024);
    let api = refusing(move || json_answer(most.clone())).await;
    let answer = ask(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
    assert_eq!(answer.text().await.unwrap(), data_for("token-2"));
    let long = format!("{}{padding}", whole_refusal());
    let api = refusing(move || json_answer(long.clone())).await;
    let answer = ask(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
    assert_eq!(answer.text().await.unwrap().len(), whole_refusal().len() + padding.len());
    assert_eq!(api.bearers(), ["token-1"]);
}

#[tokio::test]
async fn only_authoring_and_only_json_with_status_200_is_looked_at() {
    let refused_in = |status: u16, kind: &'static str| {
        move || {
            let answer = Response::builder().status(status).header("content-type", kind);
            answer.body(whole_refusal().into()).unwrap()
        }
    };
    for (status, kind) in [
        (201, "application/json"),
        (400, "application/json"),
        (403, "application/json"),
        (200, "text/html"),
        (200, ""),
    ] {
        let api = refusing(refused_in(status, kind)).await;
        let answer =
            ask(&client(&api, &ScriptedSource::granting(DAY)), api.authoring(), QUERY).await;
        assert_eq!(answer.text().await.unwrap(), whole_refusal(), "{status} {kind}");
    }
    let api = refusing(refused_in(200, "application/json")).await;
    for path in ["/graphql", "/sitecore/apis/graphql", "/api/graphql/v1"] {
        let answer = ask(
            &client(&api, &ScriptedSource::granting(DAY)),
            api.origin().join(path).unwrap(),
            QUERY,
        )
        .await;
        assert_eq!(answer.text().await.unwrap(), whole_refusal(), "{path}");
    }
    // And not if it is switched off.
    let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)))
        .target(Target::origin(api.origin().clone()).unwrap())
        .rejections(Rejections::default().graphql(false));
    let answer = ask(&wrap(auth.build().unwrap()), api.authoring(), QUERY).await;
    assert_eq!(answer.text().await.unwrap(), whole_refusal());
    assert!(api.bearers().iter().all(|bearer| bearer == "token-1"));
}

/// An answer that begins like this, and goes on when it is told to.
async fn halting(begin: &'static str, length: Option<usize>) -> (Api, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let rest = Arc::clone(&go_on);
    let api = Api::start(move |_, _| {
        let rest = Arc::clone(&rest);
        let begin = stream::iter([Frame::data(begin.into())]);
        let end = stream::once(async move {
            rest.notified().await;
            Frame::data(Bytes::from_static(b"the end"))
        });
        let mut answer = json_answer(frames(begin.chain(end)));
        if let Some(length) = length {
            answer.headers_mut().insert("content-length", length.into());
        }
        answer
    })
    .await;
    (api, go_on)
}

#[tokio::test]
async fn a_slow_answer_is_handed_on_as_soon_as_it_is_clear() {
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
        let (api, go_on) = halting(begin, has_length.then_some(begin.len() + 7)).await;
        let source = ScriptedSource::granting(DAY);
        // `ask` gives up if the head does not come.
        let mut answer = ask(&client(&api, &source), api.authoring(), QUERY).await;
        let first = timeout(SOON, answer.chunk()).await.expect("the start").unwrap();
        assert_eq!(first.as_deref(), Some(begin.as_bytes()));
        go_on.notify_one();
        let last = timeout(SOON, answer.chunk()).await.expect("the rest").unwrap();
        assert_eq!(last.as_deref(), Some(&b"the end"[..]));
        assert_eq!(source.calls(), 1);
    }
}

#[tokio::test]
async fn a_403_and_other_answers_count_if_the_program_says_so() {
    let expired =
        |body: &'static str| move || Response::builder().status(403).body(body.into()).unwrap();
    let layer = |api: &Api, rejections| {
        let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)));
        let auth = auth.target(Target::origin(api.origin().clone()).unwrap());
        wrap(auth.rejections(rejections).build().unwrap())
    };
    let body = r#"{"title":"Forbidden","detail":"Token has expired."}"#;
    let api = refusing(expired(body)).await;
    let url = || api.origin().join("/api/brands/v1").unwrap();
    let answer = layer(&api, Rejections::default()).get(url()).send().await.unwrap();
    assert_eq!(
        (answer.status(), answer.text().await.unwrap()),
        (StatusCode::FORBIDDEN, body.to_owned())
    );
    let answer = layer(&api, Rejections::default().expired_403()).get(url()).send().await.unwrap();
    assert_eq!(
        (answer.status(), answer.text().await.unwrap()),
        (StatusCode::OK, data_for("token-2"))
    );

    let api = refusing(expired("You may not")).await;
    let answer = layer(&api, Rejections::default().expired_403())
        .get(api.origin().clone())
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status(), answer.text().await.unwrap()),
        (StatusCode::FORBIDDEN, "You may not".to_owned())
    );
    assert_eq!(api.bearers(), ["token-1"]);

    let api = refusing(|| {
        let answer = Response::builder().status(498).header("x-why", "token");
        answer.body("x".repeat(40_000).into()).unwrap()
    })
    .await;
    let invalid = StatusCode::from_u16(498).unwrap();
    // The body is shown to its limit, and is whole nevertheless.
    assert!(format!("{:?}", Rejections::default().expired_403()).contains("403"));
    let never = Rejections::default().when(invalid, |_, body| body.len() != 16 * 1024);
    let answer = layer(&api, never).get(api.origin().clone()).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap().len(), 40_000);
    let always = Rejections::default()
        .when(invalid, |_, _| false)
        .when(invalid, |headers, _| headers["x-why"] == "token");
    let answer = layer(&api, always).get(api.origin().clone()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_answer_in_the_smallest_pieces_costs_little() {
    // Blanks, and a long message: nothing in there decides anything.
    let long = format!(
        "{}{}",
        " ".repeat(7_000),
        errors(&[error("OTHER", "null").replace("The", &"x".repeat(7_000))], "")
    );
    let api = Api::start(move |_, _| json_answer(pieces(&long))).await;
    let layered = client(&api, &ScriptedSource::granting(DAY));
    let bare = reqwest::Client::new();
    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        let begun = Instant::now();
        ask(&layered, api.authoring(), QUERY).await.bytes().await.unwrap();
        ours = ours.min(begun.elapsed());
        let begun = Instant::now();
        bare.post(api.authoring()).send().await.unwrap().bytes().await.unwrap();
        theirs = theirs.min(begun.elapsed());
    }
    println!("{ours:?} with the layer, {theirs:?} without");
    assert!(ours < 3 * theirs, "{ours:?} with the layer, {theirs:?} without");
}
