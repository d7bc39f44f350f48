//! Error responses of the issuer: refused clients, other client errors, server errors.

use std::time::Duration;

use serde_json::json;
use sitecore_token::{ClientAuth, ClientCredentials, Endpoint, ErrorKind, TokenClient};
use tokio::time::Instant;
use url::form_urlencoded;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use super::{error_of, refusal};
use crate::support::{
    AfterWrite, RawServer, SECOND, SECRET, all_formats, client_of, requests, serve,
};

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
        let url = format!("{}/oauth/token", server.uri());
        let endpoint = Endpoint::new(url.parse().unwrap(), "a").unwrap();
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
async fn a_part_or_another_spelling_of_a_secret_is_redacted() {
    const LONG: &str = "pQ7Zt1kLmN8sVbX4cR2yWdE6fGhJ0aU3iO5xKvTn";
    const SPECIAL: &str = "aB1~cD2/eF3+gH4=iJ5*";
    let every_byte: String = LONG.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for (secret, echo) in [
        // The first parts, as if a server had cut it off.
        (LONG, &LONG[..30]),
        (LONG, "pQ7Z t1kL mN8s VbX4"),
        (LONG, "pQ7Z\u{200b}t1kL\u{200b}mN8s"),
        (LONG, &every_byte),
        // As other platforms encode it.
        (SPECIAL, "aB1%7ecD2%2feF3%2bgH4%3diJ5%2a"),
        (SPECIAL, "aB1~cD2%2FeF3%2BgH4%3DiJ5*"),
        (SPECIAL, "AB1~CD2/EF3+GH4=IJ5*"),
    ] {
        let server = serve(refusal(401, "invalid_client", &format!("no {echo} here"))).await;
        let endpoint = format!("{}/oauth/token", server.uri());
        let endpoint = Endpoint::new(endpoint.parse().unwrap(), "a").unwrap();
        let client =
            TokenClient::builder(ClientCredentials::new("id", secret)).endpoint(endpoint).build();
        let error = client.unwrap().fetch().await.expect_err("a refusal");
        let description = error.refusal().and_then(|refusal| refusal.description());
        assert_eq!(description, Some("[redacted]"), "{echo}");
        assert!(!all_formats(&error).contains(echo), "{error:?}");
    }
}

#[tokio::test]
async fn a_parameter_that_is_a_part_of_the_secret_does_not_reveal_the_rest() {
    for echo in [SECRET, &SECRET[..12]] {
        let server = serve(refusal(401, "invalid_client", &format!("no secret {echo} here"))).await;
        let client = client_of(&server.uri()).parameter("a", "s").parameter("b", "3").build();
        let error = client.unwrap().fetch().await.expect_err("a refusal");
        let shown = all_formats(&error);
        assert!(!shown.contains("cret-") && !shown.contains("entinel"), "{shown}");
    }
}

#[tokio::test]
async fn a_token_in_the_wrong_place_is_not_quoted() {
    for body in [
        json!({ "access_token": "Bearer", "token_type": "t0ken-s3ntinel" }),
        json!({ "access_token": "t0ken-s3ntinel", "error": "invalid_request",
            "error_description": "for t0ken-s3ntinel" }),
    ] {
        let error = error_of(ResponseTemplate::new(200).set_body_json(body)).await;
        assert!(!all_formats(&error).contains("s3ntinel"), "{error:?}");
    }
}

#[tokio::test]
async fn invisible_characters_of_the_issuer_are_not_shown() {
    let description = "a\r\n\u{1b}[31mb\u{202e}c\u{2028}d\u{feff}";
    let error = error_of(refusal(403, "access_denied", description)).await;
    assert_eq!(error.refusal().and_then(|refusal| refusal.description()), Some("a[31mbcd"));
    assert!(error.to_string().contains("\"a[31mbcd\""), "{error}");
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
async fn an_oauth_error_in_a_200_response_is_classified_by_its_code() {
    for (code, kind) in [
        ("access_denied", ErrorKind::Refused),
        ("invalid_client", ErrorKind::Refused),
        ("too_many_requests", ErrorKind::RateLimited),
        ("temporarily_unavailable", ErrorKind::Unavailable),
        ("server_error", ErrorKind::Unavailable),
    ] {
        let error =
            error_of(ResponseTemplate::new(200).set_body_json(json!({ "error": code }))).await;
        assert_eq!(error.kind(), kind, "{code}");
        assert_eq!(error.refusal().expect("a refusal").code(), code);
    }
    // Also if the body is cut off.
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{\"error\":\"access_denied\",";
    let server = RawServer::start(head, AfterWrite::Close).await;
    let error = client_of(&server.url()).build().unwrap().fetch().await.expect_err("a refusal");
    assert_eq!(error.kind(), ErrorKind::Refused);
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
            assert!(!error.issuer_responded(), "it may be a proxy's response");
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
        assert_eq!(error.issuer_responded(), status >= 500, "{status}");
    }
    let error = error_of(refusal(503, "invalid_client", "")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_error_says_whether_the_issuer_itself_reported_it() {
    let html = |status| ResponseTemplate::new(status).set_body_raw("<h1>Hello</h1>", "text/html");
    for (response, expected) in [
        (refusal(401, "access_denied", ""), true),
        (refusal(404, "invalid_request", ""), true),
        (html(429), true),
        (html(503), true),
        // A network that requires a sign-in, and a page instead of a token.
        (html(511), false),
        (html(200), false),
        (html(302), false),
    ] {
        let error = error_of(response).await;
        assert_eq!(error.issuer_responded(), expected, "{error}");
        assert_eq!(sitecore_auth::Error::from(error).issuer_responded(), expected);
    }
}

#[tokio::test]
async fn a_refusal_is_one_sentence_with_host_client_status_code_and_description() {
    let error = error_of(refusal(403, "access_denied", "Service not found: wrong-audience")).await;
    assert_eq!(
        error.to_string(),
        "127.0.0.1 refused client `client` (403 access_denied: \"Service not found: \
         wrong-audience\"); check the audience, the requested scopes, and whether this kind of client \
         is authorized for them"
    );
    assert!(std::error::Error::source(&error).is_none());
    let error = error_of(ResponseTemplate::new(503).set_body_string("busy")).await;
    assert_eq!(
        error.to_string(),
        "127.0.0.1 responded to client `client` with status 503 and no readable OAuth error; try again later"
    );
}

#[tokio::test]
async fn an_error_response_is_classified_although_its_text_is_broken() {
    let started = Instant::now();
    for (body, then, description) in [
        // Latin-1.
        (
            &b"{\"error\":\"invalid_client\",\"error_description\":\"ung\xfcltig\"}"[..],
            AfterWrite::Close,
            Some("ungültig"),
        ),
        (
            b"{\"error_description\":\"\xe4\",\"error\":\"invalid_client\"}",
            AfterWrite::Close,
            Some("ä"),
        ),
        // Duplicate keys, text after the JSON, and a value that is not a string.
        (b"{\"error\":\"invalid_client\",\"error\":\"x\"}", AfterWrite::Close, None),
        (b"{\"error\":\"invalid_client\"} trailing", AfterWrite::Close, None),
        (b"{\"error_description\":[],\"error\":\"invalid_client\"}", AfterWrite::Close, None),
        // Characters that should be escaped, and a backslash that should not be there alone.
        (
            b"{\"error_description\":\"a\n\tb\",\"error\":\"invalid_client\"}",
            AfterWrite::Close,
            Some("a  b"),
        ),
        (
            br#"{"error_description":"C:\path\u12","x":"\\","error":"invalid_client"}"#,
            AfterWrite::Close,
            Some(r"C:\path\u12"),
        ),
        (br#"{"x":"\u00e4\"","error":"invalid_client"}"#, AfterWrite::Close, None),
        // Cut off, also within a character.
        (b"{\"error\":\"invalid_client\",\"error_description\":\"bad", AfterWrite::Close, None),
        (
            b"{\"error\":\"invalid_client\",\"error_description\":\"\xc3\xa4\",\"x\":\"\xc3",
            AfterWrite::Close,
            Some("ä"),
        ),
        // A body that never ends, silent or talkative.
        (b"{\"error\":\"invalid_client\",\"error_description\":\"bad", AfterWrite::Hang, None),
        (
            b"{\"error\":\"invalid_client\",\"x\":\"a",
            AfterWrite::Repeat(Duration::from_millis(20)),
            None,
        ),
    ] {
        let head = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\n\r\n";
        let response = [head.as_bytes(), body].concat();
        let server = RawServer::start(response, then).await;
        let error = client_of(&server.url()).build().unwrap().fetch().await.expect_err("a refusal");
        let shown = String::from_utf8_lossy(body);
        assert_eq!(error.kind(), ErrorKind::Refused, "{shown}: {error:?}");
        let refusal = error.refusal().expect("a refusal");
        assert_eq!(
            (refusal.code(), refusal.description()),
            ("invalid_client", description),
            "{shown}"
        );
    }
    // Two of them are waited for, for a second each.
    assert!(started.elapsed() < 6 * SECOND, "{:?}", started.elapsed());
    let endless =
        RawServer::start("HTTP/1.1 503 Busy\r\nretry-after: 7\r\n\r\n<h1>", AfterWrite::Hang);
    let error = client_of(&endless.await.url()).build().unwrap().fetch().await.expect_err("a 503");
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(7 * SECOND)));
}

#[tokio::test]
async fn an_error_response_that_is_too_long_is_classified_by_its_start() {
    let body = format!(r#"{{"error":"access_denied","x":"{}"}}"#, "x".repeat(3 << 20));
    let error = error_of(ResponseTemplate::new(403).set_body_string(body)).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
}

#[tokio::test]
async fn a_code_is_classified_by_its_original_text_and_redacted_only_for_display() {
    for (parameter, status, code, kind, shown) in [
        ("server-eu", 400, "server_error", ErrorKind::Unavailable, "server_error"),
        ("client", 401, "invalid_client", ErrorKind::Refused, "invalid_client"),
        ("requests", 403, "too_many_requests", ErrorKind::RateLimited, "too_many_requests"),
        ("tenant_blocked", 403, "tenant_blocked", ErrorKind::Refused, "[redacted]"),
    ] {
        let server = serve(refusal(status, code, &format!("about {parameter}"))).await;
        let client = client_of(&server.uri()).parameter("region", parameter).build().unwrap();
        let error = client.fetch().await.expect_err("an error");
        assert_eq!(error.kind(), kind, "{code}");
        let refusal = error.refusal().expect("a refusal");
        assert_eq!(refusal.code(), shown);
        assert_eq!(refusal.description(), Some("about [redacted]"), "{code}");
    }
}

#[tokio::test]
async fn an_issuer_that_requires_http_basic_is_recognized() {
    for (status, challenge, is_basic) in [
        (401, "Basic realm=\"a\"", true),
        (400, "basic", true),
        (401, "Bearer realm=\"a\", Basic realm=\"b\"", true),
        (401, "Bearer realm=\"a\"", false),
        (401, "Basically realm=\"a\"", false),
        (401, "Bearer realm=\"OAuth, Basic or Digest\"", false),
        (401, "Bearer realm=\"a, b\", Basic realm=\"c\"", true),
    ] {
        let response = refusal(status, "invalid_client", "");
        let server = serve(response.insert_header("www-authenticate", challenge)).await;
        let message_with = |auth| {
            let client = client_of(&server.uri()).client_auth(auth).build().unwrap();
            async move { client.fetch().await.expect_err("a refusal").to_string() }
        };
        let message = message_with(ClientAuth::Body).await;
        assert_eq!(message.contains("use ClientAuth::Basic"), is_basic, "{challenge}: {message}");
        // An issuer that accepts both ways may say so after a wrong secret too.
        assert!(message.contains("check the client id and the client secret"), "{message}");
        let message = message_with(ClientAuth::Basic).await;
        assert!(!message.contains("ClientAuth"), "{challenge}: {message}");
    }
}

#[tokio::test]
async fn an_authorization_header_that_the_issuer_quotes_is_redacted() {
    let quote = |request: &Request| {
        let header = request.headers["authorization"].to_str().unwrap();
        refusal(401, "invalid_client", &format!("no client for {header}"))
    };
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(quote).mount(&server).await;
    let client = client_of(&server.uri()).client_auth(ClientAuth::Basic).build().unwrap();
    let error = client.fetch().await.expect_err("a refusal");
    let request = requests(&server).await.remove(0);
    let encoded = request.headers["authorization"].to_str().unwrap().trim_start_matches("Basic ");
    let shown = all_formats(&error);
    assert!(shown.contains("[redacted]") && !shown.contains(encoded), "{shown}");
}
