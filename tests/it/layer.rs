//! The layer on real sockets: the header, the replay, what is left alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use serde_json::json;
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, ErrorKind, Target, Token, TokenCache, redirect_policy,
    source_fn,
};
use url::Url;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::support::{Logs, ScriptedSource, Step, everything_said, serve};

const DAY: Duration = Duration::from_secs(86_400);

fn origin(server: &MockServer) -> Target {
    Target::origin(server.uri().parse().unwrap()).unwrap()
}

fn client(source: &ScriptedSource, target: Target) -> ClientWithMiddleware {
    let auth = AuthMiddleware::builder(TokenCache::new(source.clone()))
        .target(target)
        .build()
        .unwrap();
    ClientBuilder::new(reqwest::Client::new())
        .with(auth)
        .build()
}

/// Answers 401 to these tokens (with these challenges) and 200 to others, counting.
async fn refusing(
    tokens: &'static [&'static str],
    challenges: &'static [&'static str],
) -> MockServer {
    let server = MockServer::start().await;
    let answer = move |request: &Request| {
        let sent = bearer(request);
        if tokens.iter().any(|token| *token == sent) {
            challenges.iter().fold(
                ResponseTemplate::new(401).set_body_string("no"),
                |answer, challenge| answer.append_header("www-authenticate", *challenge),
            )
        } else {
            ResponseTemplate::new(200).set_body_string(sent)
        }
    };
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

fn bearer(request: &Request) -> String {
    let header = request
        .headers
        .get("authorization")
        .map_or("", |value| value.to_str().unwrap());
    header.trim_start_matches("Bearer ").to_owned()
}

async fn requests(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}

#[tokio::test]
async fn a_request_for_a_target_carries_the_token() {
    let server = refusing(&[], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client(&source, origin(&server));
    for _ in 0..10 {
        let answer = client
            .post(server.uri())
            .json(&json!({ "query": "{ a }" }))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.text().await.unwrap(), "token-1");
    }
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn the_header_is_marked_sensitive_all_the_way_down() {
    let logs = Logs::capture();
    let server = refusing(&[], &[]).await;
    let source = source_fn(|_| async { Token::bearer("sentinel-token", DAY) });
    let auth = AuthMiddleware::builder(TokenCache::new(source))
        .target(origin(&server))
        .build()
        .unwrap();
    let shown = format!("{auth:?}");
    let client = ClientBuilder::new(
        reqwest::Client::builder()
            .connection_verbose(false)
            .build()
            .unwrap(),
    )
    .with(auth)
    .build();
    client.get(server.uri()).send().await.unwrap();
    // wiremock logs what it receives; it is the server's side and no log of ours.
    let logged: Vec<_> = logs
        .text()
        .lines()
        .filter(|line| line.contains("sentinel") && !line.contains("wiremock"))
        .map(str::to_owned)
        .collect();
    assert!(
        logged.is_empty() && !shown.contains("sentinel"),
        "{logged:?} {shown}"
    );
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_the_request_sent_once_more() {
    for challenges in [
        &[][..],
        &["Bearer"],
        &[r#"Bearer error="invalid_token""#],
        &["Basic realm=\"x\"", "bearer error=invalid_token"],
        &[r#"Basic realm="a, b", Bearer realm="c""#],
    ] {
        let server = refusing(&["token-1"], challenges).await;
        let source = ScriptedSource::granting(DAY);
        let client = client(&source, origin(&server));
        let answer = client
            .post(server.uri())
            .body("payload")
            .send()
            .await
            .unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap()),
            (200, "token-2".to_owned()),
            "{challenges:?}"
        );
        let requests = requests(&server).await;
        assert!(requests.iter().all(|request| request.body == b"payload"));
        assert_eq!((requests.len(), source.calls()), (2, 2));
    }
}

#[tokio::test]
async fn a_second_refusal_is_final() {
    let server = refusing(&["token-1", "token-2", "token-3"], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client(&source, origin(&server));
    let answer = client.get(server.uri()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    assert_eq!((requests(&server).await.len(), source.calls()), (2, 2));
    // From now on it waits: one request, no grant, the answer as it is.
    let answer = client.get(server.uri()).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.text().await.unwrap()),
        (401, "no".to_owned())
    );
    assert_eq!((requests(&server).await.len(), source.calls()), (3, 2));
}

#[tokio::test]
async fn five_hundred_refusals_cost_one_grant() {
    let server = refusing(&["token-1"], &[]).await;
    let source = ScriptedSource::new(
        [Step::Grant(DAY)],
        Step::Slow(Duration::from_millis(50), DAY),
    );
    let client = client(&source, origin(&server));
    let answers = join_all((0..500).map(|_| client.get(server.uri()).send())).await;
    assert!(
        answers
            .into_iter()
            .all(|answer| answer.unwrap().status() == 200)
    );
    assert_eq!(source.calls(), 2);
    assert!(requests(&server).await.len() <= 1_000);
}

#[tokio::test]
async fn what_no_other_token_would_mend_is_passed_through() {
    let client = |server: &MockServer| client(&ScriptedSource::granting(DAY), origin(server));
    for challenges in [
        &[r#"Basic realm="x""#][..],
        &["Negotiate"],
        &["Negotiate YWJj=="],
        &["Basic realm=\"x\"", "Digest realm=\"y\", nonce=\"z\""],
        &[r#"Bearer error="insufficient_scope", scope="a""#],
    ] {
        let server = refusing(&["token-1"], challenges).await;
        let answer = client(&server).get(server.uri()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{challenges:?}");
        assert_eq!(requests(&server).await.len(), 1, "{challenges:?}");
    }
    for status in [403, 404, 409, 429, 500, 520] {
        let server = serve(ResponseTemplate::new(status).set_body_string("<h1>sorry</h1>")).await;
        let answer = client(&server).get(server.uri()).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap()),
            (status, "<h1>sorry</h1>".to_owned())
        );
        assert_eq!(requests(&server).await.len(), 1);
    }
}

#[tokio::test]
async fn without_replay_the_answer_goes_back_and_the_next_request_is_good() {
    let server = refusing(&["token-1"], &[]).await;
    let cache = TokenCache::new(ScriptedSource::granting(DAY));
    let auth = AuthMiddleware::builder(cache)
        .target(origin(&server))
        .replay(false)
        .build()
        .unwrap();
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(auth)
        .build();
    assert_eq!(
        client
            .get(server.uri())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        401
    );
    assert_eq!(
        client
            .get(server.uri())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        200
    );
    assert_eq!(requests(&server).await.len(), 2);
}

#[tokio::test]
async fn a_body_that_cannot_be_cloned_is_not_sent_again() {
    let server = refusing(&["token-1"], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client(&source, origin(&server));
    let stream = || {
        reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(
            "part",
        )]))
    };
    let answer = client
        .post(server.uri())
        .body(stream())
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.text().await.unwrap()),
        (401, "no".to_owned())
    );
    let answer = client
        .post(server.uri())
        .body(stream())
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), requests(&server).await.len()),
        (200, 2)
    );
}

#[tokio::test]
async fn if_there_is_no_other_token_the_first_answer_goes_back_untouched() {
    let server = refusing(&["token-1"], &["Bearer"]).await;
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Malformed));
    let answer = client(&source, origin(&server))
        .get(server.uri())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    assert_eq!(
        (answer.status().as_u16(), answer.text().await.unwrap()),
        (401, "no".to_owned())
    );
    assert_eq!(requests(&server).await.len(), 1);
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let server = refusing(&[], &[]).await;
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    let error = client(&source, origin(&server))
        .get(server.uri())
        .send()
        .await
        .expect_err("no token");
    let reqwest_middleware::Error::Middleware(inner) = &error else {
        panic!("{error:?}")
    };
    let auth = inner
        .downcast_ref::<sitecore_auth::Error>()
        .expect("our error");
    assert_eq!(auth.kind(), ErrorKind::Refused);
    assert!(everything_said(auth).contains("scripted"));
    assert!(requests(&server).await.is_empty());
}

#[tokio::test]
async fn a_request_with_a_header_of_its_own_is_left_alone() {
    let server = serve(ResponseTemplate::new(401)).await;
    let source = ScriptedSource::granting(DAY);
    let client = client(&source, origin(&server));
    let own = client
        .get(server.uri())
        .bearer_auth("own")
        .send()
        .await
        .unwrap();
    let key = client
        .get(server.uri())
        .header("sc_apikey", "key")
        .send()
        .await
        .unwrap();
    assert_eq!((own.status().as_u16(), key.status().as_u16()), (401, 401));
    let requests = requests(&server).await;
    assert_eq!((requests.len(), source.calls()), (2, 0));
    assert_eq!(bearer(&requests[0]), "own");
    assert!(!requests[1].headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_request_for_no_target_is_left_alone() {
    let (server, other) = (
        serve(ResponseTemplate::new(401)).await,
        refusing(&[], &[]).await,
    );
    let source = ScriptedSource::granting(DAY);
    let client = client(&source, origin(&other));
    assert_eq!(
        client
            .get(server.uri())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        401
    );
    let requests = requests(&server).await;
    assert_eq!((requests.len(), source.calls()), (1, 0));
    assert!(!requests[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn several_layers_serve_a_target_each() {
    let (one, two) = (refusing(&[], &[]).await, refusing(&[], &[]).await);
    let layer = |name: &'static str, target| {
        let cache = TokenCache::new(source_fn(move |_| async move { Token::bearer(name, DAY) }));
        AuthMiddleware::builder(cache)
            .target(target)
            .build()
            .unwrap()
    };
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(layer("first", origin(&one)))
        .with(layer("second", origin(&two)))
        .with(layer("third", origin(&two)))
        .build();
    for (server, expected) in [(&one, "first"), (&two, "second")] {
        assert_eq!(
            client
                .get(server.uri())
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap(),
            expected
        );
    }
}

#[tokio::test]
async fn a_cache_on_the_request_chooses_the_credentials() {
    let server = refusing(&["tenant-1"], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client(&source, origin(&server));
    let number = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&number);
    let tenant = TokenCache::new(source_fn(move |_| {
        let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Token::bearer(format!("tenant-{number}"), DAY) }
    }));
    let answer = client
        .get(server.uri())
        .with_extension(tenant.clone())
        .send()
        .await
        .unwrap();
    // Its refusal is that cache's business too.
    assert_eq!(answer.text().await.unwrap(), "tenant-2");
    assert_eq!((number.load(Ordering::SeqCst), source.calls()), (2, 0));
    // The targets stay the layer's.
    let elsewhere = refusing(&[], &[]).await;
    let answer = client
        .get(elsewhere.uri())
        .with_extension(tenant)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.text().await.unwrap(), "");
}

#[tokio::test]
async fn an_api_key_goes_into_its_own_header() {
    let server = serve(ResponseTemplate::new(200)).await;
    let cache = TokenCache::new(source_fn(|_| async {
        Token::api_key("sc_apikey".parse().unwrap(), "key")
    }));
    let auth = AuthMiddleware::builder(cache)
        .target(origin(&server))
        .build()
        .unwrap();
    ClientBuilder::new(reqwest::Client::new())
        .with(auth)
        .build()
        .get(server.uri())
        .send()
        .await
        .unwrap();
    let request = requests(&server).await.remove(0);
    assert_eq!(request.headers["sc_apikey"], "key");
    assert!(!request.headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_key_of_the_callers_own_is_left_alone() {
    let server = serve(ResponseTemplate::new(401)).await;
    let layer = |key: &'static str| {
        let cache = TokenCache::new(source_fn(move |_| async move {
            Token::api_key("x-key".parse().unwrap(), key)
        }));
        AuthMiddleware::builder(cache)
            .target(origin(&server))
            .build()
            .unwrap()
    };
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(layer("first"))
        .with(layer("second"))
        .build();
    client
        .get(server.uri())
        .header("x-key", "own")
        .send()
        .await
        .unwrap();
    // Of two layers, the first sets it.
    client.get(server.uri()).send().await.unwrap();
    let sent: Vec<_> = requests(&server)
        .await
        .iter()
        .map(|request| request.headers["x-key"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(sent[..2], ["own", "first"]);
}

#[tokio::test]
async fn our_header_wins_over_a_default_header() {
    let server = refusing(&[], &[]).await;
    let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)))
        .target(origin(&server))
        .build()
        .unwrap();
    let defaults = http::HeaderMap::from_iter([(
        http::header::AUTHORIZATION,
        "Bearer default".parse().unwrap(),
    )]);
    let http = reqwest::Client::builder()
        .default_headers(defaults)
        .build()
        .unwrap();
    let answer = ClientBuilder::new(http)
        .with(auth)
        .build()
        .get(server.uri())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.text().await.unwrap(), "token-1");
}

#[tokio::test]
async fn a_redirect_to_another_origin_does_not_carry_the_token() {
    let elsewhere = serve(ResponseTemplate::new(401)).await;
    for status in [301, 302, 303, 307, 308] {
        let server =
            serve(ResponseTemplate::new(status).insert_header("location", elsewhere.uri())).await;
        let source = ScriptedSource::granting(DAY);
        let answer = client(&source, origin(&server))
            .get(server.uri())
            .send()
            .await
            .unwrap();
        // The refusal comes from where the token never was.
        assert_eq!((answer.status().as_u16(), source.calls()), (401, 1));
    }
    assert!(
        requests(&elsewhere)
            .await
            .iter()
            .all(|request| !request.headers.contains_key("authorization"))
    );
    assert_eq!(requests(&elsewhere).await.len(), 5);
}

#[tokio::test]
async fn the_redirect_policy_ends_where_the_origin_changes() {
    let elsewhere = serve(ResponseTemplate::new(200)).await;
    let server = MockServer::start().await;
    let away = ResponseTemplate::new(307).insert_header("location", elsewhere.uri());
    Mock::given(wiremock::matchers::path("/away"))
        .respond_with(away)
        .mount(&server)
        .await;
    let near = ResponseTemplate::new(307).insert_header("location", "/end");
    Mock::given(wiremock::matchers::path("/near"))
        .respond_with(near)
        .mount(&server)
        .await;
    let round = ResponseTemplate::new(307).insert_header("location", "/round");
    Mock::given(wiremock::matchers::path("/round"))
        .respond_with(round)
        .mount(&server)
        .await;
    Mock::given(wiremock::matchers::path("/end"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&server)
        .await;
    let cache = TokenCache::new(source_fn(|_| async {
        Token::api_key("sc_apikey".parse().unwrap(), "key")
    }));
    let auth = AuthMiddleware::builder(cache)
        .target(origin(&server))
        .build()
        .unwrap();
    let http = reqwest::Client::builder()
        .redirect(redirect_policy())
        .build()
        .unwrap();
    let client = ClientBuilder::new(http).with(auth).build();
    let get = |path: &str| {
        client
            .get(Url::parse(&server.uri()).unwrap().join(path).unwrap())
            .send()
    };
    assert_eq!(get("/away").await.unwrap().status().as_u16(), 307);
    assert_eq!(get("/near").await.unwrap().status().as_u16(), 200);
    assert!(get("/round").await.expect_err("a circle").is_redirect());
    assert!(requests(&elsewhere).await.is_empty());
}

#[test]
fn a_layer_needs_credentials_and_a_target() {
    let cause = |error: sitecore_auth::Error| {
        assert_eq!(error.kind(), ErrorKind::Config);
        everything_said(&error)
    };
    let credentials = || ClientCredentials::new("id", "secret");
    assert!(cause(AuthMiddleware::new(credentials(), []).unwrap_err()).contains("Target"));
    assert!(
        cause(
            AuthMiddleware::new(ClientCredentials::new("", "s"), [Target::deploy()]).unwrap_err()
        )
        .contains("client id")
    );
    let layer = AuthMiddleware::new(credentials(), [Target::deploy()]).unwrap();
    assert!(layer.cache().current().is_none());
}
