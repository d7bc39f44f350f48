//! Neither a secret nor a token appears in any log, error or `Debug` output, whatever fails.

use std::time::Duration;

use serde_json::json;
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, RefreshPolicy, Rejections, Target, Token, TokenCache,
    source_fn,
};
use wiremock::{MockServer, ResponseTemplate};
use zeroize::ZeroizeOnDrop;

use crate::support::{
    AfterWrite, Logs, RawServer, SECRET, TestApi, all_formats, client_of, serve, wrap,
};

const TOKEN: &str = "t0ken-sentinel";

/// Sends requests through the whole stack. Returns everything that was printed and logged.
async fn output_of(token_url: &str, api: &MockServer) -> String {
    let logs = Logs::capture();
    let tokens = client_of(token_url).timeout(Duration::from_millis(300)).build().unwrap();
    let mut policy = RefreshPolicy::default();
    policy.attempts_per_refresh = 1;
    let cache = TokenCache::builder(tokens.clone()).policy(policy).build().unwrap();
    let target = Target::origin(api.uri().parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(cache.clone())
        .target(target)
        .rejections(Rejections::default().expired_403())
        .build()
        .unwrap();
    let mut output = format!("{tokens:?}{tokens:#?}{auth:?}{auth:#?}");
    let client = wrap(auth);
    for _ in 0..2 {
        match client
            .post(format!("{}/sitecore/api/authoring/graphql/v1/", api.uri()))
            .json(&json!({ "query": "{ a }" }))
            .send()
            .await
        {
            Ok(response) => output += &format!("{response:?}{response:#?}"),
            Err(error) => output += &all_formats(&error),
        }
    }
    if let Err(error) = tokens.fetch().await {
        output += &all_formats(&error);
    }
    output += &format!("{cache:?}{cache:#?}");
    // wiremock logs the requests that it receives. That is the server's log, not ours.
    let logged = logs.text();
    output.extend(
        logged.lines().filter(|line| !line.contains("wiremock")).map(|line| format!("{line}\n")),
    );
    assert!(logged.contains("token_refresh"), "no logs were captured: {logged}");
    output
}

#[tokio::test]
async fn no_failure_reveals_a_secret_or_a_token() {
    let encoded: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let quoted = json!(SECRET).to_string();
    let ok = |body| ResponseTemplate::new(200).set_body_json(body);
    let token_responses = [
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
    let apis = [serve(ResponseTemplate::new(200)).await, serve(ResponseTemplate::new(401)).await];
    let sentinels = [SECRET, &encoded, quoted.trim_matches('"'), TOKEN];
    let check = |output: String, what: &str| {
        for sentinel in sentinels {
            let at = output
                .find(sentinel)
                .map(|at| &output[output.floor_char_boundary(at.saturating_sub(300))..at]);
            assert!(at.is_none(), "{what}: {sentinel} after {at:?}");
        }
    };
    for api in &apis {
        for response in token_responses.clone() {
            let what = format!("{response:?}");
            let issuer = serve(response).await;
            check(output_of(&issuer.uri(), api).await, &what);
        }
        for (bytes, then) in [
            ("", AfterWrite::Close),
            ("HTTP/1.1 200 OK\r\n", AfterWrite::Hang),
            ("nonsense\r\n\r\n", AfterWrite::Close),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"access_token\":\"t0ken-sentinel\"",
                AfterWrite::Close,
            ),
        ] {
            let issuer = RawServer::start(bytes, then).await;
            check(output_of(&issuer.url(), api).await, bytes);
        }
    }
    // Different responses of the API, with and without a token.
    let away = ResponseTemplate::new(307).insert_header("location", apis[0].uri());
    let rejection = json!({ "data": null, "errors": [{ "message": "m", "extensions": { "code": "AUTH_NOT_AUTHENTICATED" } }] });
    for response in [
        away,
        ok(rejection),
        ResponseTemplate::new(401)
            .insert_header("www-authenticate", "Bearer error=\"invalid_token\""),
        ResponseTemplate::new(403).set_body_string("Token has expired"),
        ResponseTemplate::new(520).set_body_string("<h1>sorry</h1>"),
    ] {
        let what = format!("{response:?}");
        let api = serve(response).await;
        for token_response in [token_responses[0].clone(), token_responses[15].clone()] {
            let issuer = serve(token_response).await;
            check(output_of(&issuer.uri(), &api).await, &what);
        }
    }
}

#[tokio::test]
async fn no_logged_http2_frame_shows_a_token() {
    let logs = Logs::capture();
    let api = TestApi::start(|_, _| http::Response::default()).await;
    let cache =
        TokenCache::new(source_fn(|_| async { Token::bearer(TOKEN, Duration::from_secs(60)) }));
    let target = Target::origin(api.origin().clone()).unwrap();
    let auth = AuthMiddleware::builder(cache).target(target).build().unwrap();
    let http = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let client = reqwest_middleware::ClientBuilder::new(http).with(auth).build();
    client.get(api.origin().clone()).send().await.unwrap();
    assert_eq!(api.bearers(), [TOKEN]);
    let logged = logs.text();
    assert!(logged.contains("h2::"), "no logs were captured: {logged}");
    assert!(!logged.contains(TOKEN), "{logged}");
}

#[tokio::test]
async fn secrets_are_stored_in_types_that_overwrite_them() {
    fn overwrites(_: &impl ZeroizeOnDrop) {}
    let credentials = ClientCredentials::new("id", SECRET);
    overwrites(credentials.client_secret());
    let issuer =
        serve(ResponseTemplate::new(200).set_body_json(json!({ "access_token": TOKEN }))).await;
    let response = client_of(&issuer.uri()).build().unwrap().fetch().await.unwrap();
    overwrites(response.access_token());
}
