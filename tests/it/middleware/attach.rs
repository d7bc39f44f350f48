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

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_call_costs_the_token_requests_of_one_refresh_even_if_they_fail_at_once() {
    let server = serve(ResponseTemplate::new(200)).await;
    for _ in 0..200 {
        let source = ScriptedSource::new([], Step::Fail(ErrorKind::Refused));
        let client = client_with(source.clone(), origin(&server));
        client.get(server.uri()).send().await.expect_err("no token");
        assert_eq!(source.calls(), 1);
    }
}

#[tokio::test]
async fn a_request_with_its_own_credentials_is_passed_on_unchanged() {
    let server = serve(ResponseTemplate::new(401)).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    let get = |query: &str| client.get(format!("{}{query}", server.uri()));
    let own = [
        get("").bearer_auth("own"),
        get("").header("sc_apikey", "key"),
        get("").header("X-GQL-Token", "key"),
        get("").header("x-sitecore-contextid", "id"),
        get("?sc_apikey=key"),
        get("?a=b&SC%5fAPIKEY=key"),
        get("?sitecoreContextId=id"),
    ];
    for call in own {
        assert_eq!(call.send().await.unwrap().status().as_u16(), 401);
    }
    let requests = requests(&server).await;
    assert_eq!((requests.len(), source.calls()), (7, 0));
    assert_eq!(bearer(&requests[0]), "own");
    let is_bare = |request: &wiremock::Request| !request.headers.contains_key("authorization");
    assert!(requests[1..].iter().all(is_bare));
    // In a call to the Token API, this header names the key that the call is about.
    let call = client.get(format!("{}/api/apikey/v1/token", server.uri()));
    call.header("X-GQL-Token", "key").send().await.unwrap();
    assert_eq!(source.calls(), 2);
    // Parameters with similar names or values do not count.
    get("?sc_apikeys=key&q=sitecoreContextId").send().await.unwrap();
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

#[tokio::test]
async fn with_a_required_target_a_request_that_matches_none_is_not_sent() {
    let (server, other) = (serve(ResponseTemplate::new(200)).await, rejecting(&[], &[]).await);
    let source = ScriptedSource::granting(DAY);
    let auth = AuthMiddleware::builder(TokenCache::new(source.clone()))
        .target(origin(&other))
        .require_target(true)
        .build()
        .unwrap();
    let client = auth.into_client(reqwest::Client::builder()).unwrap();
    let error = client.get(format!("{}/s3cret", server.uri())).send().await.expect_err("no target");
    let auth = auth_error(&error);
    assert_eq!(auth.kind(), ErrorKind::Config);
    let message = auth.to_string();
    assert!(message.contains(&server.uri()) && message.contains("target"), "{message}");
    assert!(!message.contains("s3cret"), "{message}");
    assert_eq!((requests(&server).await.len(), source.calls()), (0, 0));
    // These do not need a token of ours.
    client.get(server.uri()).with_extension(NoAuth).send().await.unwrap();
    client.get(server.uri()).bearer_auth("own").send().await.unwrap();
    client.get(other.uri()).send().await.unwrap();
    assert_eq!((requests(&server).await.len(), source.calls()), (2, 1));
}

#[test]
fn the_environment_names_the_credentials_and_the_issuer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (issuer, api) = runtime.block_on(async {
        let granted =
            json!({"access_token": "from-env", "token_type": "Bearer", "expires_in": 900});
        let issuer = serve(ResponseTemplate::new(200).set_body_json(granted)).await;
        (issuer, rejecting(&[], &[]).await)
    });
    let variables = [
        ("SITECORE_AUTH_CLIENT_ID", Some("id".to_owned())),
        ("SITECORE_AUTH_CLIENT_SECRET", Some("\u{feff}secret \n".to_owned())),
        ("SITECORE_AUTH_AUTHORITY", Some(issuer.uri())),
        ("SITECORE_AUTH_AUDIENCE", Some("https://audience.example".to_owned())),
    ];
    let auth = temp_env::with_vars(variables, || AuthMiddleware::from_env([origin(&api)]).unwrap());
    let client = auth.into_client(reqwest::Client::builder()).unwrap();
    let text = runtime
        .block_on(async { client.get(api.uri()).send().await.unwrap().text().await.unwrap() });
    assert_eq!(text, "from-env");
    let sent = runtime.block_on(requests(&issuer)).remove(0);
    let body = String::from_utf8(sent.body).unwrap();
    assert!(body.contains("secret") && body.contains("audience.example"), "{body}");
    let missing = [("SITECORE_AUTH_CLIENT_ID", None::<&str>), ("SITECORE_CLIENT_ID", None)];
    let error = temp_env::with_vars(missing, || AuthMiddleware::from_env([Target::deploy()]));
    assert!(error.unwrap_err().to_string().contains("SITECORE_AUTH_CLIENT_ID"));
}

#[test]
fn a_client_for_loopback_uses_no_proxy() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (proxy, api) = runtime
        .block_on(async { (serve(ResponseTemplate::new(502)).await, rejecting(&[], &[]).await) });
    let status = |target: Target, url: String| {
        let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)));
        let auth = auth.target(origin(&api)).target(target).build().unwrap();
        let http = reqwest::Client::builder().proxy(reqwest::Proxy::all(proxy.uri()).unwrap());
        let client = auth.into_client(http).unwrap();
        runtime.block_on(async { client.get(url).send().await.unwrap().status().as_u16() })
    };
    assert_eq!(status(origin(&api), api.uri()), 200);
    assert_eq!(status(Target::deploy(), "http://api.example/".to_owned()), 502);
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
