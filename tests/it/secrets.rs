//! Neither a secret nor a token is in anything that is said: every failure, with everything logged.

use std::time::Duration;

use reqwest_middleware::ClientBuilder;
use serde_json::json;
use sitecore_auth::{AuthMiddleware, RefreshPolicy, Target, TokenCache};
use wiremock::{MockServer, ResponseTemplate};

use crate::support::{Logs, RawServer, SECRET, Then, client_of, everything_said, serve};

const TOKEN: &str = "t0ken-sentinel";

/// Runs one call through the whole stack and returns all that was said.
async fn said(token_url: &str, api: &MockServer) -> String {
    let logs = Logs::capture();
    let tokens = client_of(token_url)
        .timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let mut policy = RefreshPolicy::default();
    policy.grants_per_refresh = 1;
    let cache = TokenCache::builder(tokens.clone())
        .policy(policy)
        .build()
        .unwrap();
    let target = Target::origin(api.uri().parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(cache.clone())
        .target(target)
        .build()
        .unwrap();
    let mut said = format!("{tokens:?}{tokens:#?}{auth:?}{auth:#?}");
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(auth)
        .build();
    for _ in 0..2 {
        match client
            .post(api.uri())
            .json(&json!({ "query": "{ a }" }))
            .send()
            .await
        {
            Ok(answer) => said += &format!("{answer:?}{answer:#?}"),
            Err(error) => said += &everything_said(&error),
        }
    }
    if let Err(error) = tokens.fetch().await {
        said += &everything_said(&error);
    }
    said += &format!("{cache:?}{cache:#?}");
    // The mock servers log what they receive: theirs is the other side of the wire.
    let logged = logs.text();
    said.extend(
        logged
            .lines()
            .filter(|line| !line.contains("wiremock"))
            .map(|line| format!("{line}\n")),
    );
    assert!(
        logged.contains("token_refresh"),
        "nothing was captured: {logged}"
    );
    said
}

#[tokio::test]
async fn no_failure_tells_a_secret_or_a_token() {
    let encoded: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let quoted = json!(SECRET).to_string();
    let ok = |body| ResponseTemplate::new(200).set_body_json(body);
    let answers = [
        ok(json!({ "access_token": TOKEN, "token_type": "Bearer", "expires_in": 60 })),
        ok(
            json!({ "access_token": TOKEN, "token_type": "Bearer", "expires_in": 0, "refresh_token": TOKEN }),
        ),
        ok(json!({ "access_token": TOKEN, "token_type": "MAC" })),
        ok(json!({ "access_token": TOKEN, "expires_in": TOKEN })),
        ok(json!({ "access_token": [TOKEN] })),
        ok(json!({ "access_token": format!("{TOKEN} {TOKEN}") })),
        ok(json!({ "access_token": format!("{TOKEN}\r\n{SECRET}") })),
        ok(json!({ "access_token": TOKEN.repeat(10_000) })),
        ok(json!({ "error": "access_denied", "error_description": SECRET })),
        ok(json!([TOKEN, SECRET])),
        ok(json!(TOKEN)),
        ResponseTemplate::new(200).set_body_string(format!("{TOKEN}{SECRET}{{")),
        ResponseTemplate::new(200).set_body_raw("", "text/t0ken"),
        ResponseTemplate::new(201).set_body_string(TOKEN),
        ResponseTemplate::new(400)
            .set_body_json(json!({ "error": "invalid_request", "error_description": quoted })),
        ResponseTemplate::new(401)
            .set_body_json(json!({ "error": "access_denied", "error_description": encoded })),
        ResponseTemplate::new(403).set_body_string(format!("<p>{SECRET}")),
        ResponseTemplate::new(429).insert_header("retry-after", "43200"),
        ResponseTemplate::new(503).set_body_string(SECRET),
        ResponseTemplate::new(307)
            .insert_header("location", format!("https://elsewhere.example/?{encoded}")),
    ];
    let apis = [
        serve(ResponseTemplate::new(200)).await,
        serve(ResponseTemplate::new(401)).await,
    ];
    let sentinels = [SECRET, &encoded, quoted.trim_matches('"'), TOKEN];
    let check = |said: String, what: &str| {
        for sentinel in sentinels {
            let at = said
                .find(sentinel)
                .map(|at| &said[said.floor_char_boundary(at.saturating_sub(300))..at]);
            assert!(at.is_none(), "{what}: {sentinel} after {at:?}");
        }
    };
    for api in &apis {
        for answer in answers.clone() {
            let what = format!("{answer:?}");
            let issuer = serve(answer).await;
            check(said(&issuer.uri(), api).await, &what);
        }
        for (bytes, then) in [
            ("", Then::Close),
            ("HTTP/1.1 200 OK\r\n", Then::Hang),
            ("nonsense\r\n\r\n", Then::Close),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"access_token\":\"t0ken-sentinel\"",
                Then::Close,
            ),
        ] {
            let issuer = RawServer::start(bytes, then).await;
            check(said(&issuer.url(), api).await, bytes);
        }
    }
}
