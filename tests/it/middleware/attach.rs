//! The middleware on real sockets: which requests get a token, and from which cache.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use reqwest_middleware::ClientBuilder;
use serde_json::json;
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, ErrorKind, NoAuth, Target, Token, TokenCache, source_fn,
};
use wiremock::ResponseTemplate;

use crate::support::{
    DAY, Logs, ScriptedSource, Step, all_formats, auth_error, bearer, client_with, origin,
    rejecting, requests, serve,
};

#[tokio::test]
async fn a_request_for_a_target_carries_the_token() {
    let server = rejecting(&[], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    for _ in 0..10 {
        let response =
            client.post(server.uri()).json(&json!({ "query": "{ a }" })).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "token-1");
    }
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn the_header_is_marked_sensitive_and_never_logged() {
    let logs = Logs::capture();
    let server = rejecting(&[], &[]).await;
    let source = source_fn(|_| async { Token::bearer("sentinel-token", DAY) });
    let auth =
        AuthMiddleware::builder(TokenCache::new(source)).target(origin(&server)).build().unwrap();
    let debug = format!("{auth:?}");
    let client =
        ClientBuilder::new(reqwest::Client::builder().connection_verbose(false).build().unwrap())
            .with(auth)
            .build();
    client.get(server.uri()).send().await.unwrap();
    // wiremock logs the requests that it receives. That is the server's log, not ours.
    let logged: Vec<_> = logs
        .text()
        .lines()
        .filter(|line| line.contains("sentinel") && !line.contains("wiremock"))
        .map(str::to_owned)
        .collect();
    assert!(logged.is_empty() && !debug.contains("sentinel"), "{logged:?} {debug}");
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let server = rejecting(&[], &[]).await;
    let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
    let error = client_with(source.clone(), origin(&server))
        .get(server.uri())
        .send()
        .await
        .expect_err("no token");
    let auth = auth_error(&error);
    assert_eq!(auth.kind(), ErrorKind::Refused);
    assert!(all_formats(auth).contains("scripted"));
    assert!(requests(&server).await.is_empty());
}

#[tokio::test]
async fn a_request_with_its_own_credentials_is_passed_on_unchanged() {
    let server = serve(ResponseTemplate::new(401)).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    let own = client.get(server.uri()).bearer_auth("own").send().await.unwrap();
    let key = client.get(server.uri()).header("sc_apikey", "key").send().await.unwrap();
    assert_eq!((own.status().as_u16(), key.status().as_u16()), (401, 401));
    let requests = requests(&server).await;
    assert_eq!((requests.len(), source.calls()), (2, 0));
    assert_eq!(bearer(&requests[0]), "own");
    assert!(!requests[1].headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_request_with_the_no_auth_extension_is_passed_on_unchanged() {
    let server = serve(ResponseTemplate::new(401)).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    let call = client.get(server.uri()).with_extension(NoAuth);
    assert_eq!(call.send().await.unwrap().status().as_u16(), 401);
    let requests = requests(&server).await;
    assert_eq!((requests.len(), source.calls()), (1, 0));
    assert!(!requests[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_request_that_matches_no_target_is_passed_on_unchanged() {
    let (server, other) = (serve(ResponseTemplate::new(401)).await, rejecting(&[], &[]).await);
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&other));
    assert_eq!(client.get(server.uri()).send().await.unwrap().status().as_u16(), 401);
    let requests = requests(&server).await;
    assert_eq!((requests.len(), source.calls()), (1, 0));
    assert!(!requests[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn several_middlewares_serve_different_targets() {
    let (one, two) = (rejecting(&[], &[]).await, rejecting(&[], &[]).await);
    let middleware = |name: &'static str, target| {
        let cache = TokenCache::new(source_fn(move |_| async move { Token::bearer(name, DAY) }));
        AuthMiddleware::builder(cache).target(target).build().unwrap()
    };
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(middleware("first", origin(&one)))
        .with(middleware("second", origin(&two)))
        .with(middleware("third", origin(&two)))
        .build();
    for (server, expected) in [(&one, "first"), (&two, "second")] {
        assert_eq!(client.get(server.uri()).send().await.unwrap().text().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_cache_as_a_request_extension_provides_the_token() {
    let server = rejecting(&["tenant-1"], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    let number = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&number);
    let tenant = TokenCache::new(source_fn(move |_| {
        let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Token::bearer(format!("tenant-{number}"), DAY) }
    }));
    let response = client.get(server.uri()).with_extension(tenant.clone()).send().await.unwrap();
    // A rejected token is replaced in that cache too.
    assert_eq!(response.text().await.unwrap(), "tenant-2");
    assert_eq!((number.load(Ordering::SeqCst), source.calls()), (2, 0));
    // The targets remain those of the middleware.
    let elsewhere = rejecting(&[], &[]).await;
    let response = client.get(elsewhere.uri()).with_extension(tenant).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test]
async fn an_api_key_goes_into_its_own_header() {
    let server = serve(ResponseTemplate::new(200)).await;
    let source = source_fn(|_| async { Token::api_key("sc_apikey".parse().unwrap(), "key") });
    client_with(source, origin(&server)).get(server.uri()).send().await.unwrap();
    let request = requests(&server).await.remove(0);
    assert_eq!(request.headers["sc_apikey"], "key");
    assert!(!request.headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_key_set_by_the_caller_is_kept() {
    let server = serve(ResponseTemplate::new(401)).await;
    let middleware = |key: &'static str| {
        let cache = TokenCache::new(source_fn(move |_| async move {
            Token::api_key("x-key".parse().unwrap(), key)
        }));
        AuthMiddleware::builder(cache).target(origin(&server)).build().unwrap()
    };
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(middleware("first"))
        .with(middleware("second"))
        .build();
    client.get(server.uri()).header("x-key", "own").send().await.unwrap();
    // Of two middlewares, the first one sets it.
    client.get(server.uri()).send().await.unwrap();
    let sent: Vec<_> = requests(&server)
        .await
        .iter()
        .map(|request| request.headers["x-key"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(sent[..2], ["own", "first"]);
}

#[tokio::test]
async fn the_tokens_header_takes_precedence_over_a_default_header() {
    let server = rejecting(&[], &[]).await;
    let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)))
        .target(origin(&server))
        .build()
        .unwrap();
    let defaults = http::HeaderMap::from_iter([(
        http::header::AUTHORIZATION,
        "Bearer default".parse().unwrap(),
    )]);
    let http = reqwest::Client::builder().default_headers(defaults).build().unwrap();
    let response =
        ClientBuilder::new(http).with(auth).build().get(server.uri()).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "token-1");
}

#[test]
fn a_middleware_needs_credentials_and_a_target() {
    let cause = |error: sitecore_auth::Error| {
        assert_eq!(error.kind(), ErrorKind::Config);
        all_formats(&error)
    };
    let credentials = || ClientCredentials::new("id", "secret");
    assert!(cause(AuthMiddleware::new(credentials(), []).unwrap_err()).contains("Target"));
    assert!(
        cause(
            AuthMiddleware::new(ClientCredentials::new("", "s"), [Target::deploy()]).unwrap_err()
        )
        .contains("client id")
    );
    let middleware = AuthMiddleware::new(credentials(), [Target::deploy()]).unwrap();
    assert!(middleware.cache().current().is_none());
}
