//! Redirects between real servers: where the token goes, and what a rejection means afterwards.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use http::Response;
use reqwest::redirect::Policy;
use reqwest_middleware::ClientBuilder;
use sitecore_auth::{AuthMiddleware, Target, Token, TokenCache, TokenSource, source_fn};
use url::Url;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{
    DAY, HttpAndHttps, Logs, ScriptedSource, TestApi, client_with, origin, requests, serve,
};

#[tokio::test]
async fn a_redirect_to_another_origin_does_not_carry_the_token() {
    let elsewhere = serve(ResponseTemplate::new(401)).await;
    for status in [301, 302, 303, 307, 308] {
        let server =
            serve(ResponseTemplate::new(status).insert_header("location", elsewhere.uri())).await;
        let source = ScriptedSource::granting(DAY);
        let response =
            client_with(source.clone(), origin(&server)).get(server.uri()).send().await.unwrap();
        // The 401 comes from a server that never got the token.
        assert_eq!((response.status().as_u16(), source.calls()), (401, 1));
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
async fn the_redirect_policy_stops_when_the_origin_changes() {
    let elsewhere = serve(ResponseTemplate::new(200)).await;
    let server = MockServer::start().await;
    let away = ResponseTemplate::new(307).insert_header("location", elsewhere.uri());
    Mock::given(wiremock::matchers::path("/away")).respond_with(away).mount(&server).await;
    let near = ResponseTemplate::new(307).insert_header("location", "/end");
    Mock::given(wiremock::matchers::path("/near")).respond_with(near).mount(&server).await;
    let round = |number| {
        let to = format!("/round/{}", number + 1);
        ResponseTemplate::new(307).insert_header("location", to)
    };
    for number in 0..12 {
        let path = wiremock::matchers::path(format!("/round/{number}"));
        Mock::given(path).respond_with(round(number)).mount(&server).await;
    }
    Mock::given(wiremock::matchers::path("/end"))
        .respond_with(ResponseTemplate::new(200))
        .mount(&server)
        .await;
    let cache = TokenCache::new(source_fn(|_| async {
        Token::api_key("sc_apikey".parse().unwrap(), "key")
    }));
    let auth = AuthMiddleware::builder(cache).target(origin(&server)).build().unwrap();
    let client = auth.into_client(reqwest::Client::builder()).unwrap();
    let get =
        |path: &str| client.get(Url::parse(&server.uri()).unwrap().join(path).unwrap()).send();
    assert_eq!(get("/away").await.unwrap().status().as_u16(), 307);
    assert_eq!(get("/near").await.unwrap().status().as_u16(), 200);
    let before = requests(&server).await.len();
    assert!(get("/round/0").await.expect_err("too many redirects").is_redirect());
    // reqwest's default limit: ten redirects.
    assert_eq!(requests(&server).await.len() - before, 11);
    assert!(requests(&elsewhere).await.is_empty());
}

/// Which redirect policy a client has.
#[derive(Clone, Copy)]
enum Use {
    Ours,
    Reqwests,
}

/// Sends requests that are redirected to another host, port and scheme, and with two `hops` once
/// more from there. Returns the heads of the requests that arrived at the other origins.
async fn heads_elsewhere(source: impl TokenSource, policy: Use, hops: usize) -> Vec<String> {
    let (server, other) = (HttpAndHttps::start().await, HttpAndHttps::start().await);
    let home = format!("https://localhost:{}", server.port());
    let target = Target::origin(home.parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(TokenCache::new(source)).target(target);
    let auth = auth.build().unwrap();
    let http = reqwest::Client::builder().danger_accept_invalid_certs(true);
    let client = match policy {
        Use::Ours => auth.into_client(http).unwrap(),
        Use::Reqwests => ClientBuilder::new(http.build().unwrap()).with(auth).build(),
    };
    for elsewhere in [
        format!("https://127.0.0.1:{}", server.port()),
        format!("https://localhost:{}", other.port()),
        format!("http://localhost:{}", server.port()),
    ] {
        let path = format!("?to={elsewhere}/elsewhere").repeat(hops);
        client.get(format!("{home}/{path}")).send().await.unwrap();
    }
    let heads = [server.heads(), other.heads()].concat();
    let (elsewhere, sent): (Vec<_>, Vec<_>) =
        heads.into_iter().partition(|head| head.contains(" /elsewhere"));
    assert!(sent.len() == 3 && sent.iter().all(|head| head.contains("sentinel")), "{sent:?}");
    elsewhere
}

fn bearer() -> impl TokenSource {
    source_fn(|_| async { Token::bearer("sentinel", DAY) })
}

fn key() -> impl TokenSource {
    source_fn(|_| async { Token::api_key("sc_apikey".parse().unwrap(), "sentinel") })
}

#[tokio::test]
async fn a_redirect_to_another_host_port_or_scheme_does_not_carry_the_token() {
    let heads = heads_elsewhere(bearer(), Use::Reqwests, 1).await;
    assert_eq!(heads.len(), 3, "{heads:?}");
    assert!(heads.iter().any(|head| head.starts_with("http ")));
    assert!(!heads.concat().contains("sentinel"), "{heads:?}");
}

#[tokio::test]
async fn with_the_redirect_policy_neither_token_nor_key_reaches_another_origin() {
    for hops in [1, 2] {
        assert!(heads_elsewhere(bearer(), Use::Ours, hops).await.is_empty());
        assert!(heads_elsewhere(key(), Use::Ours, hops).await.is_empty());
    }
}

/// Shows why the policy is needed. If this fails, reqwest has changed: update the documentation.
#[tokio::test]
async fn without_the_redirect_policy_reqwest_sends_them_to_another_origin() {
    let sent = |heads: Vec<String>| heads.concat().matches("sentinel").count();
    // A key is sent at the first redirect, a bearer token when the other origin redirects again.
    assert_eq!(sent(heads_elsewhere(key(), Use::Reqwests, 1).await), 3);
    assert_eq!(sent(heads_elsewhere(bearer(), Use::Reqwests, 2).await), 3);
}

#[tokio::test]
async fn a_redirect_to_another_origin_logs_a_warning() {
    let logs = Logs::capture();
    let elsewhere = serve(ResponseTemplate::new(200)).await;
    let away = ResponseTemplate::new(307).insert_header("location", elsewhere.uri());
    let server = serve(away).await;
    let client = client_with(ScriptedSource::granting(DAY), origin(&server));
    client.get(server.uri()).send().await.unwrap();
    let logged = logs.text();
    let warning = logged.lines().find(|line| line.contains("WARN") && line.contains("into_client"));
    assert!(warning.is_some_and(|line| line.contains("127.0.0.1")), "{logged}");
}

/// Redirects each path as `to` says, and records the path and the credential of each request.
async fn redirects(
    to: impl Fn(&str) -> Option<String> + Clone + Send + Sync + 'static,
) -> (TestApi, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let api = TestApi::start(move |bearer, request| {
        let path = request.uri().path();
        log.lock().unwrap().push(format!("{path} {bearer}"));
        let response = Response::builder();
        let response = match to(path) {
            Some(to) => response.status(302).header("location", to),
            None => response,
        };
        response.body(Body::empty()).unwrap()
    })
    .await;
    (api, seen)
}

#[tokio::test]
async fn a_redirect_out_of_the_targets_paths_or_to_another_target_is_not_followed() {
    let (other, elsewhere) = redirects(|_| None).await;
    let origin = other.origin().clone();
    let (api, seen) = redirects(move |path| match path {
        "/sitecore/api/page" => Some("/customer/page".to_owned()),
        "/sitecore/api/other" => Some(origin.join("/sitecore/api/").unwrap().to_string()),
        "/sitecore/api/moved" => Some("/sitecore/api/here".to_owned()),
        "/public" => Some(origin.join("/public").unwrap().to_string()),
        _ => None,
    })
    .await;
    let target = |api: &TestApi| {
        Target::authoring("cm.example").unwrap().with_origin(api.origin().clone()).unwrap()
    };
    let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)))
        .targets([target(&api), target(&other)])
        .build()
        .unwrap();
    let client = auth.into_client(reqwest::Client::builder()).unwrap();
    for (path, status) in [
        ("/sitecore/api/page", 302),
        ("/sitecore/api/other", 302),
        ("/sitecore/api/moved", 200),
        ("/public", 200),
    ] {
        let url = api.origin().join(path).unwrap();
        assert_eq!(client.get(url).send().await.unwrap().status().as_u16(), status, "{path}");
    }
    let seen = seen.lock().unwrap().clone();
    assert!(!seen.iter().any(|request| request.starts_with("/customer")), "{seen:?}");
    assert!(seen.contains(&"/sitecore/api/here token-1".to_owned()), "{seen:?}");
    // A URL that no target covers follows the policy that was given.
    assert_eq!(elsewhere.lock().unwrap().clone(), ["/public "]);
}

#[tokio::test]
async fn a_redirect_back_to_the_first_url_is_not_followed_and_so_cannot_lead_to_a_replay() {
    for status in [302, 303, 307] {
        let posts = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&posts);
        let api = TestApi::start(move |bearer, request| {
            let mut log = log.lock().unwrap();
            log.push(format!("{} {bearer}", request.method()));
            let response = match log.len() {
                1 => Response::builder().status(status).header("location", "/x#done"),
                _ if bearer == "token-1" => Response::builder().status(401),
                _ => Response::builder(),
            };
            response.body(Body::empty()).unwrap()
        })
        .await;
        let target = Target::origin(api.origin().clone()).unwrap();
        let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)));
        let auth = auth.target(target).build().unwrap();
        let client = auth.into_client(reqwest::Client::builder()).unwrap();
        let response = client.post(api.origin().join("/x").unwrap()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(posts.lock().unwrap().clone(), ["POST token-1"]);
    }
}

#[tokio::test]
async fn the_policies_of_several_middlewares_nest() {
    let (elsewhere, _) = redirects(|_| None).await;
    let to = elsewhere.origin().to_string();
    let (api, _) = redirects(move |path| (path != "/").then(|| to.clone())).await;
    let auth = |path: &str| {
        let folder = Target::folder(api.origin().join(path).unwrap()).unwrap();
        let cache = TokenCache::new(ScriptedSource::granting(DAY));
        AuthMiddleware::builder(cache).target(folder).build().unwrap()
    };
    let (first, second) = (auth("/first"), auth("/second"));
    let policy = first.redirect_policy(second.redirect_policy(Policy::none()));
    let http = reqwest::Client::builder().redirect(policy).build().unwrap();
    let none = ClientBuilder::new(http).with(first.clone()).with(second.clone()).build();
    let policy = first.redirect_policy(second.redirect_policy(Policy::default()));
    let http = reqwest::Client::builder().redirect(policy).build().unwrap();
    let ten = ClientBuilder::new(http).with(first).with(second).build();
    for (path, with_none, with_default) in
        [("/first/a", 302, 302), ("/second/a", 302, 302), ("/third/a", 302, 200)]
    {
        let url = || api.origin().join(path).unwrap();
        assert_eq!(none.get(url()).send().await.unwrap().status().as_u16(), with_none, "{path}");
        assert_eq!(ten.get(url()).send().await.unwrap().status().as_u16(), with_default, "{path}");
    }
}

/// An API that redirects `/start` to `/end`, which rejects `token-1`.
async fn redirecting(
    status: u16,
    rejection: fn() -> Response<Body>,
) -> (TestApi, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let api = TestApi::start(move |bearer, request| {
        let path = request.uri().path();
        log.lock().unwrap().push(format!("{} {path}", request.method()));
        match (path.ends_with("/start"), bearer) {
            (true, _) => {
                let to = path.replace("/start", "/end");
                let response = Response::builder().status(status).header("location", to);
                response.body(Body::empty()).unwrap()
            }
            (false, "token-1") => rejection(),
            (false, _) => Response::default(),
        }
    })
    .await;
    (api, seen)
}

#[tokio::test]
async fn after_a_redirect_only_requests_with_safe_methods_are_replayed() {
    let unauthorized = || Response::builder().status(401).body(Body::empty()).unwrap();
    let graphql = || {
        let body = r#"{"errors":[{"message":"m","path":["a"],"extensions":{"code":"AUTH_NOT_AUTHENTICATED"}}],"data":{"a":null}}"#;
        let response = Response::builder().header("content-type", "application/json");
        response.body(body.into()).unwrap()
    };
    for (status, rejection) in
        [(303, unauthorized as fn() -> _), (302, graphql), (307, unauthorized)]
    {
        let (api, seen) = redirecting(status, rejection).await;
        let source = ScriptedSource::granting(DAY);
        let client = client_with(source.clone(), Target::origin(api.origin().clone()).unwrap());
        let url = api.origin().join("/sitecore/api/start").unwrap();
        let response = client.post(url.clone()).body("work").send().await.unwrap();
        assert_eq!(response.url().path(), "/sitecore/api/end");
        let requests = seen.lock().unwrap().clone();
        assert_eq!(requests.len(), 2, "{requests:?}");
        // Nevertheless the token is replaced, and a GET is replayed.
        assert_eq!(source.calls(), 2);
        let (api, seen) = redirecting(status, rejection).await;
        let client = client_with(
            ScriptedSource::granting(DAY),
            Target::origin(api.origin().clone()).unwrap(),
        );
        let url = api.origin().join("/sitecore/api/start#part").unwrap();
        let response = client.get(url).send().await.unwrap();
        assert_eq!((response.status().as_u16(), seen.lock().unwrap().len()), (200, 4));
    }
}

#[tokio::test]
async fn a_401_from_outside_the_targets_paths_is_passed_through() {
    let api = TestApi::start(|_, request| {
        let (status, to) = match request.uri().path().starts_with("/sitecore/api/") {
            true => (302, "/login"),
            false => (401, ""),
        };
        Response::builder().status(status).header("location", to).body(Body::empty()).unwrap()
    })
    .await;
    let source = ScriptedSource::granting(DAY);
    let target =
        Target::authoring("cm.example").unwrap().with_origin(api.origin().clone()).unwrap();
    let response = client_with(source.clone(), target).get(api.authoring()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), source.calls()), (401, 1));
}
