//! What becomes of the token when a request is redirected, between real servers.

use std::time::Duration;

use reqwest_middleware::ClientBuilder;
use sitecore_auth::{AuthMiddleware, Token, TokenCache, redirect_policy, source_fn};
use url::Url;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::support::{ScriptedSource, client_with, origin, requests, serve};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_redirect_to_another_origin_does_not_carry_the_token() {
    let elsewhere = serve(ResponseTemplate::new(401)).await;
    for status in [301, 302, 303, 307, 308] {
        let server =
            serve(ResponseTemplate::new(status).insert_header("location", elsewhere.uri())).await;
        let source = ScriptedSource::granting(DAY);
        let answer = client_with(source.clone(), origin(&server))
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
