//! Experience Edge keys: fetched for the Delivery API, and managed through the Token API.

use std::time::Duration;

use http::StatusCode;
use reqwest_middleware::ClientBuilder;
use secrecy::ExposeSecret as _;
use serde_json::json;
use sitecore_auth::{ErrorKind, TokenCache, edge};
use sitecore_sandbox::{Api, Client, Fault, Sandbox};
use wiremock::ResponseTemplate;

use crate::support::{
    ENVIRONMENT, all_formats, cache_for, client_for, delivery_client, graphql, serve,
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
        assert!(format!("{keys:?}").contains("obtain-edge-token"));
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
    let error = api.revoke_key("no such").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let wrong = client_for(&sandbox, sandbox.organization());
    let api = edge::TokenApi::new(wrong).with_origin(sandbox.origin(Api::Edge).clone()).unwrap();
    let error = api.create_key("x").await.unwrap_err();
    assert!(all_formats(&error).contains("an Edge administration client"), "{error:?}");
}
