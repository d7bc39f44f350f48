//! Experience Edge keys: fetched for the Delivery API, and managed through the Token API.

use std::time::Duration;

use http::StatusCode;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, ErrorKind, Target, TokenCache, edge};
use sitecore_sandbox::{Api, Client, Fault, Sandbox};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{method, path},
};

use crate::support::{
    ENVIRONMENT, ScriptedSource, Step, all_formats, cache_for, client_for, delivery_client,
    graphql, serve,
};

#[tokio::test]
async fn the_delivery_api_gets_an_edge_key_and_not_the_jwt() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = delivery_client(&sandbox);
    let query = r#"{ item(path: "/sitecore/content/acme/Home", language: "en") { name children { results { name } } } }"#;
    let response = graphql(&client, sandbox.delivery_url(), query).await;
    assert_eq!(response["data"]["item"]["children"]["results"][1]["name"], "Products");
    // Any number of calls needs only one key and one JWT.
    for _ in 0..20 {
        graphql(&client, sandbox.delivery_url(), query).await;
    }
    assert_eq!((sandbox.tokens_granted(), sandbox.calls(Api::Deploy)), (1, 1));
    // A revoked key is replaced.
    sandbox.revoke_edge_keys();
    let response = graphql(&client, sandbox.delivery_url(), query).await;
    assert_eq!(response["data"]["item"]["name"], "Home");
    assert_eq!(
        (sandbox.rejections(Api::Edge), sandbox.calls(Api::Deploy), sandbox.tokens_granted()),
        (1, 2, 1)
    );
    // The Delivery API rejects the JWT.
    let token = cache_for(&sandbox, sandbox.edge_administration()).token().await.unwrap();
    let (name, value) = token.header();
    let call = reqwest::Client::new().post(sandbox.delivery_url()).header(name, value);
    let response = call.json(&json!({ "query": query })).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_key_may_be_returned_in_quotes() {
    let server = serve(ResponseTemplate::new(200).set_body_string("\"the-key\"\n")).await;
    let client = ClientBuilder::new(reqwest::Client::new()).build();
    let api = edge::TokenApi::new(client).with_origin(server.uri().parse().unwrap()).unwrap();
    let key = api.create_key("mine").await.unwrap();
    assert_eq!(key.expose_secret(), "the-key");
}

#[tokio::test]
async fn delivery_rate_limits_are_passed_on() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = delivery_client(&sandbox);
    let calls = (0..200).map(|_| {
        let call = client.post(sandbox.delivery_url()).json(&json!({ "query": "{ __typename }" }));
        async { call.send().await.unwrap() }
    });
    let responses = futures_util::future::join_all(calls).await;
    let limited =
        responses.iter().find(|response| response.status() == StatusCode::TOO_MANY_REQUESTS);
    let limited = limited.expect("the limit is 80 requests a second");
    assert_eq!(limited.headers()["x-rate-limit-remaining"], "0");
    assert!(responses.iter().any(|response| response.status() == StatusCode::OK));
}

#[tokio::test]
async fn errors_explain_why_there_is_no_edge_key() {
    let sandbox = Sandbox::start().await.unwrap();
    let obtain = async |client: &Client, environment: &str| {
        let keys = edge::EdgeKeySource::deploy_api(client_for(&sandbox, client), environment);
        let keys = keys.with_origin(sandbox.origin(Api::Deploy).clone()).unwrap();
        assert!(format!("{keys:?}").contains(environment));
        TokenCache::new(keys).token().await.expect_err("no key")
    };
    let error = obtain(sandbox.environment(), ENVIRONMENT).await;
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(all_formats(&error).contains("an organization automation client"), "{error:?}");
    for bad in ["", "none/../such"] {
        let error = obtain(sandbox.organization(), bad).await;
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(all_formats(&error).contains("environment id"), "{error:?}");
    }
    let unauthenticated = edge::EdgeKeySource::deploy_api(
        ClientBuilder::new(reqwest::Client::new()).build(),
        ENVIRONMENT,
    );
    let unauthenticated = unauthenticated.with_origin(sandbox.origin(Api::Deploy).clone()).unwrap();
    let error = TokenCache::new(unauthenticated).token().await.expect_err("no token");
    assert!(all_formats(&error).contains("a target of the middleware"), "{error:?}");
    let error = obtain(sandbox.organization(), "none-such").await;
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(all_formats(&error).contains("404"), "{error:?}");
    sandbox.break_down(Api::Deploy, Fault::garbage());
    let error = obtain(sandbox.organization(), ENVIRONMENT).await;
    assert_eq!(error.kind(), ErrorKind::Malformed);
    sandbox.break_down(Api::Deploy, Fault::status(429).header("retry-after", "70"));
    let error = obtain(sandbox.organization(), ENVIRONMENT).await;
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert!(error.retry_after().is_some_and(|wait| wait > Duration::from_secs(69)), "{error:?}");
    for status in [408, 503] {
        sandbox.break_down(Api::Deploy, Fault::status(status));
        let error = obtain(sandbox.organization(), ENVIRONMENT).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{status}");
    }
    sandbox.heal(Api::Deploy);
    sandbox.break_down(Api::Token, Fault::status(401).body(r#"{"error":"access_denied"}"#));
    // The issuer's error comes through the Deploy client's middleware.
    assert_eq!(obtain(sandbox.organization(), ENVIRONMENT).await.kind(), ErrorKind::Refused);
    let elsewhere =
        edge::EdgeKeySource::deploy_api(client_for(&sandbox, sandbox.organization()), "id");
    let error = elsewhere.with_origin("http://deploy.example/".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn edge_keys_are_created_listed_renamed_and_revoked() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = client_for(&sandbox, sandbox.edge_administration());
    let api =
        edge::TokenApi::new(client.clone()).with_origin(sandbox.origin(Api::Edge).clone()).unwrap();
    assert!(format!("{api:?}").contains("/api/apikey/v1"));
    let key = api.create_key("search index").await.unwrap();
    let delivers = async || {
        let call = reqwest::Client::new().post(sandbox.delivery_url());
        let call = call
            .header("X-GQL-Token", key.expose_secret())
            .json(&json!({ "query": "{ __typename }" }));
        call.send().await.unwrap().status()
    };
    assert_eq!(delivers().await, StatusCode::OK);
    let listed = api.list_keys(Some("search index")).await.unwrap();
    let [info] = listed.as_slice() else { panic!("{listed:?}") };
    assert!(!format!("{listed:?}").contains(key.expose_secret()));
    api.rename_key(&info.hash, "index").await.unwrap();
    assert!(api.list_keys(Some("search index")).await.unwrap().is_empty());
    assert_eq!(api.list_keys(None).await.unwrap()[0].label, "index");
    api.revoke_key(&info.hash).await.unwrap();
    assert!(api.list_keys(None).await.unwrap().is_empty());
    assert_eq!(delivers().await, StatusCode::UNAUTHORIZED);
    // Members that are not set may be null.
    let unset = r#"{"Keys":[{"Hash":"0123456789abcdef","Label":null,"Scopes":null,"CreatedBy":null,"Created":null,"Revoked":null}],"HasNext":false}"#;
    let unset = Fault::status(200).header("content-type", "application/json").body(unset);
    sandbox.script(Api::Edge, [unset]);
    assert_eq!(api.list_keys(None).await.unwrap()[0].label, "");
    let error = api.revoke_key("no such").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let wrong = client_for(&sandbox, sandbox.organization());
    let api = edge::TokenApi::new(wrong).with_origin(sandbox.origin(Api::Edge).clone()).unwrap();
    let error = api.create_key("x").await.unwrap_err();
    assert!(all_formats(&error).contains("an Edge administration client"), "{error:?}");
}

#[test]
fn a_fixed_key_comes_from_the_program_or_the_environment() {
    let key = temp_env::with_var("SITECORE_EDGE_TOKEN", Some(" k3y= \n"), edge::EdgeKey::from_env);
    let key = key.unwrap();
    assert!(!format!("{key:?}").contains("k3y"), "{key:?}");
    for (value, expected) in
        [(None, "not set"), (Some(""), "empty"), (Some("\"k3y=\""), "quotation")]
    {
        let error = temp_env::with_var("SITECORE_EDGE_TOKEN", value, edge::EdgeKey::from_env);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        assert!(text.contains("SITECORE_EDGE_TOKEN") && text.contains(expected), "{text}");
    }
    assert_eq!(edge::EdgeKey::new("two words").unwrap_err().kind(), ErrorKind::Malformed);
}

#[tokio::test]
async fn a_fixed_key_that_is_rejected_is_reported_as_such() {
    let sandbox = Sandbox::start().await.unwrap();
    let cache = TokenCache::new(edge::EdgeKey::new("wrong").unwrap());
    let target = Target::edge_delivery().with_origin(sandbox.origin(Api::Edge).clone()).unwrap();
    let auth = AuthMiddleware::builder(cache.clone()).target(target).build().unwrap();
    let client = auth.into_client(reqwest::Client::builder()).unwrap();
    let call = client.post(sandbox.delivery_url()).json(&json!({"query": "{ __typename }"}));
    assert_eq!(call.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let status = cache.status();
    let error = status.last_error().expect("a reason");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("the only target is the Delivery API"), "{error}");
}

#[tokio::test]
async fn an_id_or_hash_that_would_change_the_path_is_not_sent() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = client_for(&sandbox, sandbox.edge_administration());
    let api = edge::TokenApi::new(client).with_origin(sandbox.origin(Api::Edge).clone()).unwrap();
    let bad = ["", ".", "..", "a/b", "a\\b", "%2e%2e", "a?b", "a#b", "a b", "\u{e4}"];
    for bad in bad {
        for result in [api.revoke_key(bad).await, api.rename_key(bad, "label").await] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(error.to_string().contains("hash"), "{error}");
        }
        let keys =
            edge::EdgeKeySource::deploy_api(client_for(&sandbox, sandbox.organization()), bad);
        let keys = keys.with_origin(sandbox.origin(Api::Deploy).clone()).unwrap();
        let error = TokenCache::new(keys).token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
    }
    assert_eq!((sandbox.calls(Api::Edge), sandbox.calls(Api::Deploy)), (0, 0));
}

#[tokio::test]
async fn errors_of_edge_calls_keep_their_kind_and_wait() {
    let limited = |value: &str| ResponseTemplate::new(429).insert_header("retry-after", value);
    let keys = |url: String, client: ClientWithMiddleware| {
        let keys = edge::EdgeKeySource::deploy_api(client, ENVIRONMENT);
        TokenCache::new(keys.with_origin(url.parse().unwrap()).unwrap())
    };
    let bare = || ClientBuilder::new(reqwest::Client::new()).build();
    for (value, seconds) in [("300", 300), ("299.997", 300), ("300, 300", 300)] {
        let server = serve(limited(value)).await;
        let error = keys(server.uri(), bare()).token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RateLimited);
        let wait = error.retry_after().unwrap();
        assert!(wait > Duration::from_secs(seconds - 1), "{value}: {wait:?}");
    }
    let server = serve(limited("300").clone()).await;
    let unavailable = serve(ResponseTemplate::new(503).insert_header("retry-after", "300")).await;
    let error = keys(unavailable.uri(), bare()).token().await.unwrap_err();
    assert!(error.retry_after().unwrap() > Duration::from_secs(299), "{error:?}");
    assert_eq!(unavailable.received_requests().await.unwrap().len(), 1);
    drop(server);

    // Our own error, inside that of a retry.
    let source =
        ScriptedSource::new([], Step::FailFor(ErrorKind::RateLimited, Duration::from_secs(300)));
    let target = Target::deploy().with_origin(unavailable.uri().parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(TokenCache::new(source)).target(target).build().unwrap();
    let backoff = reqwest_retry::policies::ExponentialBackoff::builder().build_with_max_retries(1);
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(sitecore_auth::HonourRetryAfter::new(backoff).into_middleware())
        .with(auth)
        .build();
    let error = keys(unavailable.uri(), client).token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert!(error.retry_after().unwrap() > Duration::from_secs(290), "{error:?}");

    // A host that cannot be reached, and no URL in the error.
    let error = edge::TokenApi::new(bare()).with_origin("http://127.0.0.1:9".parse().unwrap());
    let error = error.unwrap().revoke_key("hash").await.unwrap_err();
    assert!(error.never_reached_issuer());
    let text = all_formats(&error);
    assert!(text.contains("could not connect to 127.0.0.1; check"), "{text}");
    assert!(!text.contains("revokebyhash"), "{text}");
}

#[tokio::test]
async fn both_spellings_of_a_key_and_both_responses_to_a_change_are_understood() {
    let server = MockServer::start().await;
    let respond = async |verb: &str, at: &str, response: ResponseTemplate| {
        Mock::given(method(verb)).and(path(at)).respond_with(response).mount(&server).await;
    };
    let json = |body: Value| ResponseTemplate::new(200).set_body_json(body);
    let documented = json!({
        "TenantId": "t", "Hash": "h1", "IsRevoked": true, "Label": "one", "Scopes": ["s"],
        "CreatedBy": "me", "Created": "2026-01-07T09:30:00Z",
    });
    respond("GET", "/api/apikey/v1/h1", json(documented)).await;
    let seen = json!({ "hash": "h2", "isRevoked": false, "label": "two", "createdBy": "me" });
    respond("GET", "/api/apikey/v1/h2", json(seen)).await;
    respond("GET", "/api/apikey/v1/h3", json(json!({ "id": "h3" }))).await;
    respond("PUT", "/api/apikey/v1/renamebyhash/h1", json(json!(true))).await;
    respond("PUT", "/api/apikey/v1/renamebyhash/h2", json(json!(false))).await;
    let client = ClientWithMiddleware::from(reqwest::Client::new());
    let api = edge::TokenApi::new(client).with_origin(server.uri().parse().unwrap()).unwrap();

    let one = api.get_key("h1").await.unwrap();
    assert_eq!((&*one.hash, &*one.label, &*one.created_by, one.revoked), ("h1", "one", "me", true));
    let two = api.get_key("h2").await.unwrap();
    assert_eq!(
        (&*two.hash, &*two.label, &*two.created_by, two.revoked),
        ("h2", "two", "me", false)
    );
    // A key that is passed by mistake is not repeated in the error.
    let error = api.get_key("c2VjcmV0LXNhbmRib3gta2V5/AAAA==").await.unwrap_err();
    assert!(error.to_string().contains("invalid hash (31 characters)"), "{error}");
    assert!(!format!("{error:?}").contains("c2VjcmV0"), "{error:?}");
    // A response without a hash is not a key.
    assert_eq!(api.get_key("h3").await.unwrap_err().kind(), ErrorKind::Malformed);
    api.rename_key("h1", "uno").await.unwrap();
    let error = api.rename_key("h2", "due").await.unwrap_err();
    assert!(error.to_string().contains("has not changed the key"), "{error}");
}
