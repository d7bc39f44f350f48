//! Error responses of the issuer: refused clients, other client errors, server errors.

use serde_json::json;
use sitecore_token::{ClientCredentials, Endpoint, ErrorKind, TokenClient};
use url::form_urlencoded;
use wiremock::ResponseTemplate;

use super::{error_of, refusal};
use crate::support::{SECRET, all_formats, client_of, serve};

#[tokio::test]
async fn a_refusal_says_what_to_check() {
    for (status, code, description, advice) in [
        (401, "access_denied", "Unauthorized", "secret"),
        (401, "invalid_client", "", "client id"),
        (400, "invalid_request", "", "client id"),
        (403, "access_denied", "Service not found: https://api.example", "audience"),
        (403, "access_denied", "Client has not been granted scopes: a", "scopes"),
        (403, "unauthorized_client", "", "kind of client"),
    ] {
        let error = error_of(refusal(status, code, description)).await;
        assert_eq!(error.kind(), ErrorKind::Refused, "{status} {code}");
        assert!(!error.is_transient());
        let message = error.to_string();
        assert!(
            message.contains(advice)
                && message.contains(code)
                && message.contains(&status.to_string()),
            "{message}"
        );
        let refusal = error.refusal().expect("a refusal");
        assert_eq!(
            (refusal.status(), refusal.code(), refusal.description()),
            (status, code, Some(description))
        );
    }
}

#[tokio::test]
async fn a_secret_that_the_issuer_quotes_is_redacted() {
    let encoded: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    for echo in [SECRET, &encoded] {
        let error = error_of(refusal(401, "access_denied", &format!("bad secret {echo}!"))).await;
        assert_eq!(
            error.refusal().and_then(|refusal| refusal.description()),
            Some("bad secret [redacted]!")
        );
        let shown = all_formats(&error);
        assert!(!shown.contains(SECRET) && !shown.contains(&encoded), "{shown}");
    }
    // In any encoding that a server might use.
    for echo in [
        "S3CRET-SENTINEL-%25%2b",
        "s3cret-sentinel-%25+\\u0026",
        "s3cret-sen\ntinel-%+&=:/ ü",
        "s3cret-sentinel-%+&amp;=:/",
    ] {
        let error = error_of(refusal(401, "access_denied", &format!("bad secret {echo}!"))).await;
        let shown = all_formats(&error).to_lowercase();
        assert!(!shown.contains("sentinel"), "{shown}");
    }
    // Values of extra parameters too.
    let server = serve(refusal(401, "access_denied", "bad assertion p4rameter")).await;
    let client = client_of(&server.uri()).parameter("assertion", "p4rameter").build().unwrap();
    assert!(!all_formats(&client.fetch().await.unwrap_err()).contains("p4rameter"));
    // In a quoted error code, token type, content type or host too.
    let error_of = |response| async move {
        let server = serve(response).await;
        let endpoint = Endpoint::new(server.uri().parse().unwrap(), "a").unwrap();
        let credentials = ClientCredentials::new("id", "sentinel");
        TokenClient::builder(credentials)
            .endpoint(endpoint)
            .build()
            .unwrap()
            .fetch()
            .await
            .expect_err("an error")
    };
    for response in [
        ResponseTemplate::new(401).set_body_json(json!({ "error": "sentinel" })),
        ResponseTemplate::new(200)
            .set_body_json(json!({ "access_token": "a", "token_type": "sentinel" })),
        ResponseTemplate::new(200).set_body_raw("", "text/sentinel"),
        ResponseTemplate::new(302).insert_header("location", "https://sentinel.example/"),
    ] {
        let error = error_of(response).await;
        assert!(!all_formats(&error).contains("sentinel"), "{error:?}");
    }
}

#[tokio::test]
async fn the_issuers_description_is_quoted_up_to_300_characters() {
    let description = "word ".repeat(20_000);
    let body = json!({ "error": "access_denied", "error_description": description });
    let server = serve(ResponseTemplate::new(403).set_body_json(body)).await;
    let client = client_of(&server.uri()).build().unwrap();
    let error = client.fetch().await.expect_err("a refusal");
    let quoted = error.refusal().and_then(|refusal| refusal.description());
    assert_eq!(quoted.map(str::len), Some(300));
}

#[tokio::test]
async fn a_client_error_without_an_oauth_code_is_transient() {
    for status in [400, 401, 403, 404, 405, 407, 418] {
        for body in [
            "<h1>Forbidden</h1>",
            r#"{"error":"Forbidden","path":"/oauth/token"}"#,
            r#"{"error":{"code":1}}"#,
        ] {
            let error =
                error_of(ResponseTemplate::new(status).set_body_raw(body, "text/html")).await;
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{status} {body}");
            assert!(error.is_transient() && error.refusal().is_none());
            let names_url = error.to_string().contains("check the token URL");
            assert_eq!(names_url, matches!(status, 404 | 405), "{error}");
        }
    }
}

#[tokio::test]
async fn a_server_error_is_transient() {
    for status in [408, 500, 502, 503, 504, 520] {
        let error = error_of(ResponseTemplate::new(status)).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{status}");
        assert!(error.is_transient());
    }
    let error = error_of(refusal(503, "invalid_client", "")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
