//! Token responses: lifetimes, types, sizes, and everything that can be wrong with them.

use std::{io::Write as _, time::Duration};

use chrono::Utc;
use flate2::{Compression, write::GzEncoder};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sitecore_auth::TokenCache;
use sitecore_token::{Error, ErrorKind, MAX_LIFETIME, TokenResponse};
use wiremock::ResponseTemplate;

use crate::support::{AfterWrite, Logs, RawServer, all_formats, client_of, jwt, serve};

/// Fetches from a server that responds with 200 and this body.
async fn fetch_body(body: impl AsRef<[u8]>) -> Result<TokenResponse, Error> {
    fetch(ResponseTemplate::new(200).set_body_raw(body.as_ref(), "application/json")).await
}

async fn fetch(response: ResponseTemplate) -> Result<TokenResponse, Error> {
    let server = serve(response).await;
    client_of(&server.uri()).build()?.fetch().await
}

/// Returns the lifetime of a token whose response has this `expires_in`, given as JSON.
async fn lifetime(expires_in: &str) -> Result<Option<Duration>, Error> {
    let body =
        format!(r#"{{"access_token":"opaque","token_type":"Bearer","expires_in":{expires_in}}}"#);
    Ok(fetch_body(body).await?.expires_in())
}

fn malformed(result: Result<TokenResponse, Error>) -> Error {
    let error = result.expect_err("an error");
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error:?}");
    error
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_missing_lifetime_is_taken_from_the_token_itself() {
    let token = token_issued(Duration::ZERO, 900);
    for expires_in in [None, Some(Value::Null)] {
        let mut body = json!({ "access_token": token, "token_type": "Bearer" });
        if let Some(expires_in) = expires_in {
            body["expires_in"] = expires_in;
        }
        assert_eq!(fetch_body(body.to_string()).await.unwrap().expires_in(), seconds(900));
    }
    let opaque = fetch_body(r#"{"access_token":"opaque","token_type":"Bearer"}"#).await.unwrap();
    assert_eq!(opaque.expires_in(), None);
}

#[tokio::test]
async fn a_lifetime_may_be_a_string_or_a_fraction() {
    for (expires_in, expected) in [
        (r#""86400""#, 86_400),
        ("86400.0", 86_400),
        (r#"" 86400 ""#, 86_400),
        (r#""\u0038\u00364\u0030\u0030""#, 86_400),
        ("8.64e4", 86_400),
        ("899.99", 899),
        (r#"" 60 ""#, 60),
    ] {
        assert_eq!(lifetime(expires_in).await.unwrap(), seconds(expected), "{expires_in}");
    }
}

#[tokio::test]
async fn a_lifetime_below_a_second_is_not_zero() {
    assert_eq!(lifetime("0.5").await.unwrap(), Some(Duration::from_millis(500)));
}

#[tokio::test]
async fn a_lifetime_of_zero_counts_as_missing_and_logs_a_warning() {
    let logs = Logs::capture();
    let token = token_issued(Duration::ZERO, 900);
    let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 0 });
    assert_eq!(fetch_body(body.to_string()).await.unwrap().expires_in(), seconds(900));
    assert_eq!(lifetime("0").await.unwrap(), None);
    assert!(logs.text().contains("expires_in 0"), "{}", logs.text());
}

#[tokio::test]
async fn a_lifetime_that_is_not_a_number_is_malformed() {
    for expires_in in
        ["-1", "NaN", "true", "{}", "[]", r#""abc""#, r#""""#, r#""-5""#, r#""inf""#, r#""0x10""#]
    {
        let error = lifetime(expires_in).await.expect_err(expires_in);
        assert_eq!(error.kind(), ErrorKind::Malformed, "{expires_in}");
    }
}

#[tokio::test]
async fn an_enormous_lifetime_is_capped() {
    for expires_in in
        ["1000000000000000000", "1e18", "99999999999999999999999999", "1e400", r#""1e300""#]
    {
        assert_eq!(lifetime(expires_in).await.unwrap(), Some(MAX_LIFETIME), "{expires_in}");
    }
}

#[tokio::test]
async fn the_token_type_is_case_insensitive() {
    for kind in ["Bearer", "bearer", "BEARER"] {
        let body = json!({ "access_token": "opaque", "token_type": kind });
        assert!(fetch_body(body.to_string()).await.is_ok(), "{kind}");
    }
}

#[tokio::test]
async fn a_missing_token_type_counts_as_bearer_and_logs_a_warning() {
    let logs = Logs::capture();
    assert!(fetch_body(r#"{"access_token":"opaque"}"#).await.is_ok());
    assert!(logs.text().contains("no token_type"), "{}", logs.text());
}

#[tokio::test]
async fn an_unknown_token_type_is_an_error_that_names_it() {
    for kind in ["MAC", "DPoP", "N_A", "urn:custom", "urn:ietf:params:oauth:token-type:saml2"] {
        let body = json!({ "access_token": "opaque", "token_type": kind });
        let error = malformed(fetch_body(body.to_string()).await);
        assert!(error.to_string().contains(kind), "{error}");
    }
    // Other errors about the response name the issuer and the client.
    for body in [
        json!({ "token_type": "Bearer" }),
        json!({ "access_token": "a b", "token_type": "Bearer" }),
        json!({ "access_token": "opaque", "token_type": "Bearer", "expires_in": -1 }),
    ] {
        let error = malformed(fetch_body(body.to_string()).await).to_string();
        assert!(error.contains("127.0.0.1 granted client `client` no usable token"), "{error}");
    }
    // A token in the wrong field is not quoted.
    let body =
        json!({ "access_token": "opaque", "token_type": "eyJhbGciOiJSUzI1NiJ9.sentinel.c2ln" });
    assert!(!all_formats(&malformed(fetch_body(body.to_string()).await)).contains("sentinel"));
}

#[tokio::test]
async fn a_scope_that_is_not_a_string_is_ignored() {
    let body = json!({ "access_token": "opaque", "scope": ["a", "b"] });
    assert_eq!(fetch_body(body.to_string()).await.unwrap().scopes().count(), 0);
}

#[tokio::test]
async fn a_response_without_a_token_is_malformed() {
    for token in [
        r#"{"token_type":"Bearer"}"#,
        r#"{"access_token":null}"#,
        r#"{"access_token":""}"#,
        r#"{"access_token":"="}"#,
        r#"{"access_token":7}"#,
        r#"{"access_token":["a"]}"#,
    ] {
        malformed(fetch_body(token).await);
    }
}

#[tokio::test]
async fn a_token_that_does_not_fit_a_header_is_malformed_and_not_quoted() {
    for bad in [
        "sentinel\r\nX-Evil: 1",
        "sentinel\n",
        "sentinel word",
        "sentinel\u{7f}",
        "sentinel-ü",
        "sentinel\"",
        "sen=tinel",
        "sentinel\u{0}",
    ] {
        let error = malformed(
            fetch_body(json!({ "access_token": bad, "token_type": "Bearer" }).to_string()).await,
        );
        assert!(!all_formats(&error).contains("tinel"), "{error:?}");
    }
}

#[tokio::test]
async fn a_token_over_32_kib_is_an_error_that_names_its_size() {
    let fits = json!({ "access_token": "a".repeat(32 * 1024), "token_type": "Bearer" });
    assert!(fetch_body(fits.to_string()).await.is_ok());
    let long = json!({ "access_token": "a".repeat(32 * 1024 + 1), "token_type": "Bearer" });
    let error = malformed(fetch_body(long.to_string()).await);
    assert!(error.to_string().contains("32769"), "{error}");
}

#[tokio::test]
async fn an_opaque_token_is_accepted() {
    let response = fetch_body(
        r#"{"access_token":"not.a-jwt","token_type":"Bearer","expires_in":60,"scope":"a b"}"#,
    )
    .await
    .unwrap();
    assert_eq!(response.access_token().expose_secret(), "not.a-jwt");
    assert!(response.claims().is_none());
    assert_eq!(response.scopes().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn the_shorter_of_two_lifetimes_counts() {
    for (claimed, promised, expected) in [(900, 86_400, 900), (86_400, 900, 900)] {
        let token = jwt(&json!({ "iat": 1_000, "exp": 1_000 + claimed }));
        let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": promised });
        assert_eq!(fetch_body(body.to_string()).await.unwrap().expires_in(), seconds(expected));
    }
    let backwards = jwt(&json!({ "iat": 2_000, "exp": 1_000 }));
    let body = json!({ "access_token": backwards, "token_type": "Bearer", "expires_in": 60 });
    assert_eq!(fetch_body(body.to_string()).await.unwrap().expires_in(), seconds(60));
}

/// A token that was issued `age` ago, with this lifetime in seconds.
fn token_issued(age: Duration, lifetime: u64) -> String {
    let now = Utc::now().timestamp().unsigned_abs();
    let issued_at = now - age.as_secs();
    jwt(&json!({ "iat": issued_at, "exp": issued_at + lifetime }))
}

/// The response of a server that sends these headers as they are.
async fn fetch_raw(headers: &str, body: &str) -> Result<TokenResponse, Error> {
    let length = body.len();
    let response = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n{body}");
    let server = RawServer::start(response, AfterWrite::Close).await;
    client_of(&server.url()).build().unwrap().fetch().await
}

#[tokio::test]
async fn a_token_that_was_cached_on_the_way_has_only_its_remaining_lifetime() {
    let date = "date: Sun, 22 Nov 2026 12:00:00 GMT\r\n";
    let noon = 1_795_348_800_u64;
    let day = 86_400;
    for (issued_at, expected) in [
        (noon - 3_600, day - 3_600),
        (noon - 61, day - 61),
        // A clock that is a little behind, or ahead.
        (noon - 60, day),
        (noon + 60, day),
    ] {
        let token = jwt(&json!({ "iat": issued_at, "exp": issued_at + day }));
        for expires_in in ["", r#","expires_in":86400"#] {
            let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer"{expires_in}}}"#);
            let response = fetch_raw(date, &body).await.unwrap();
            assert_eq!(response.expires_in(), seconds(expected), "{issued_at} {expires_in}");
            // Without a `Date` there is nothing to compare with.
            assert_eq!(fetch_raw("", &body).await.unwrap().expires_in(), seconds(day));
        }
    }
    let expired = jwt(&json!({ "iat": noon - 2 * day, "exp": noon - day }));
    for expires_in in ["", r#","expires_in":86400"#] {
        let body = format!(r#"{{"access_token":"{expired}","token_type":"Bearer"{expires_in}}}"#);
        let error = fetch_raw(date, &body).await.expect_err("an expired token");
        assert_eq!((error.kind(), error.is_transient()), (ErrorKind::Malformed, true));
    }
}

#[tokio::test]
async fn a_token_that_does_not_say_when_it_was_issued_ends_at_its_expiry() {
    let date = "date: Sun, 22 Nov 2026 12:00:00 GMT\r\n";
    let noon = 1_795_348_800_u64;
    for (left, expires_in, expected) in
        [(60, r#","expires_in":86400"#, 60), (60, "", 60), (7_200, r#","expires_in":3600"#, 3_600)]
    {
        let token = jwt(&json!({ "exp": noon + left }));
        let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer"{expires_in}}}"#);
        let response = fetch_raw(date, &body).await.unwrap();
        assert_eq!(response.expires_in(), seconds(expected), "{left} {expires_in}");
    }
    let expired = jwt(&json!({ "exp": noon - 1 }));
    for expires_in in ["", r#","expires_in":86400"#] {
        let body = format!(r#"{{"access_token":"{expired}","token_type":"Bearer"{expires_in}}}"#);
        assert!(fetch_raw(date, &body).await.expect_err("an expired token").is_transient());
    }
}

#[tokio::test]
async fn a_web_page_or_a_truncated_response_is_malformed_but_transient() {
    let page = "<!doctype html><title>sentinel</title>";
    let error = malformed(fetch(ResponseTemplate::new(200).set_body_raw(page, "text/html")).await);
    assert!(error.is_transient());
    let shown = all_formats(&error);
    assert!(shown.contains("text/html") && shown.contains(&page.len().to_string()), "{shown}");
    assert!(!shown.contains("sentinel"), "{shown}");
    for truncated in ["", r#"{"access_token":"opa"#, "{"] {
        assert!(malformed(fetch_body(truncated).await).is_transient(), "{truncated}");
    }
    for head in [
        "content-length: 100",
        "transfer-encoding: chunked",
        "content-encoding: gzip\r\ncontent-length: 9",
    ] {
        let raw = format!("HTTP/1.1 200 OK\r\ncontent-type: a/b\r\n{head}\r\n\r\n9\r\n{{\"acce");
        let server = RawServer::start(raw, AfterWrite::Close).await;
        let error = malformed(client_of(&server.url()).build().unwrap().fetch().await);
        assert!(error.is_transient() && error.to_string().contains("a/b"), "{error}");
    }
}

#[tokio::test]
async fn json_is_read_whatever_its_content_type_and_white_space() {
    let json = r#"{"access_token":"opaque","token_type":"Bearer"}"#;
    for content_type in ["text/plain", "application/octet-stream", ""] {
        let response = ResponseTemplate::new(200).set_body_raw(json, content_type);
        assert!(fetch(response).await.is_ok(), "{content_type}");
    }
    let raw = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{json}", json.len());
    let server = RawServer::start(raw, AfterWrite::Close).await;
    assert!(client_of(&server.url()).build().unwrap().fetch().await.is_ok());
    assert!(fetch_body(format!("\u{feff}{json}")).await.is_ok());
    assert!(fetch_body(format!("\r\n \u{feff}{json}")).await.is_ok());
    assert!(fetch_body(format!(" \r\n\t{json} \n")).await.is_ok());
}

#[tokio::test]
async fn an_ambiguous_or_deeply_nested_response_is_malformed() {
    let deep = |name: &str| {
        format!(
            r#"{{"access_token":"opaque","{name}":{}{}}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        )
    };
    for body in [
        r#"{"access_token":"one","access_token":"two"}"#.to_owned(),
        r#"{"access_token":"one","expires_in":1,"expires_in":2}"#.to_owned(),
        r#"{"access_token":"one"} {"access_token":"two"}"#.to_owned(),
        r#"{"access_token":"one"}x"#.to_owned(),
        r#"["access_token"]"#.to_owned(),
        r#" ["a-token","Bearer",3600,null,null,null]"#.to_owned(),
        deep("expires_in"),
        deep("unknown"),
        "[".repeat(10_000),
    ] {
        // The response is complete, so another attempt would not help.
        assert!(!malformed(fetch_body(body).await).is_transient());
    }
    // Brackets in a string do not count as nesting.
    let text = format!(
        r#"{{"access_token":"opaque","note":"{}\" {}"}}"#,
        "[".repeat(100),
        "{".repeat(100)
    );
    assert!(fetch_body(text).await.is_ok());
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_malformed() {
    let padded = |size: usize| {
        let body = r#"{"access_token":"opaque"}"#;
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    assert!(fetch_body(padded(1024 * 1024)).await.is_ok());
    malformed(fetch_body(padded(1024 * 1024 + 1)).await);
    malformed(fetch_body(padded(10_000_000)).await);
}

#[tokio::test]
async fn an_endless_body_is_cut_off_at_one_mebibyte() {
    let chunk = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
        format!("{:x}\r\n{}\r\n", 65_536, " ".repeat(65_536)).repeat(20)
    );
    let server = RawServer::start(chunk, AfterWrite::Hang).await;
    malformed(client_of(&server.url()).build().unwrap().fetch().await);
}

#[tokio::test]
async fn the_size_limit_applies_after_decompression() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b' '; 100_000_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 200_000);
    let response = ResponseTemplate::new(200)
        .insert_header("content-encoding", "gzip")
        .set_body_raw(bomb, "application/json");
    malformed(fetch(response).await);

    let mut small = GzEncoder::new(Vec::new(), Compression::best());
    small.write_all(br#"{"access_token":"opaque"}"#).unwrap();
    let response = ResponseTemplate::new(200)
        .insert_header("content-encoding", "gzip")
        .set_body_raw(small.finish().unwrap(), "application/json");
    assert!(fetch(response).await.is_ok());
}

#[tokio::test]
async fn one_deadline_covers_headers_and_body() {
    let interval = Duration::from_millis(20);
    for bytes in [
        "HTTP/1.1 200 OK\r\nx-endless: a",
        "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n ",
        "HTTP/1.1 200 OK\r\n",
    ] {
        let server = RawServer::start(bytes, AfterWrite::Repeat(interval)).await;
        let client = client_of(&server.url()).timeout(Duration::from_millis(300)).build().unwrap();
        let started = tokio::time::Instant::now();
        let error = client.fetch().await.expect_err("no response");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_transient());
        let elapsed = started.elapsed();
        assert!(
            elapsed >= Duration::from_millis(290) && elapsed < Duration::from_secs(3),
            "{elapsed:?}"
        );
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn unknown_fields_are_neither_kept_nor_logged() {
    let logs = Logs::capture();
    let body = json!({
        "access_token": "opaque", "token_type": "Bearer",
        "refresh_token": "sentinel-refresh", "id_token": "sentinel-id", "x": { "y": [1] },
    });
    let response = fetch_body(body.to_string()).await.unwrap();
    let shown = format!("{response:?}{response:#?}{}", logs.text());
    assert!(!shown.contains("sentinel") && !shown.contains("opaque"), "{shown}");
}

#[tokio::test]
async fn only_status_200_carries_a_token() {
    for status in [201, 202, 203, 204, 206] {
        let response = ResponseTemplate::new(status)
            .set_body_raw(r#"{"access_token":"opaque"}"#, "application/json");
        let error = malformed(fetch(response).await);
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
}

#[tokio::test]
async fn claims_scopes_and_quota_are_readable() {
    let token = jwt(&json!({
        "iss": "https://auth.example/", "sub": "id@clients", "azp": "id", "aud": ["a", "b"],
        "scope": "x:y z",
        "https://auth.sitecorecloud.io/claims/org_name": "acme",
    }));
    let response = ResponseTemplate::new(200)
        .insert_header(
            "Auth0-Client-Quota-Limit",
            "b=per_hour;q=10;r=3;t=3540,b=per_day;q=50;r=0;t=43200",
        )
        .set_body_json(json!({ "access_token": token, "token_type": "Bearer" }));
    let response = fetch(response).await.unwrap();
    let claims = response.claims().expect("a JWT");
    assert_eq!(claims.issuer(), Some("https://auth.example/"));
    assert_eq!(claims.subject(), Some("id@clients"));
    assert_eq!(claims.client_id(), Some("id"));
    assert_eq!(claims.audiences().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(claims.sitecore("org_name"), Some("acme"));
    assert_eq!(response.scopes().collect::<Vec<_>>(), ["x:y", "z"]);
    let quota = response.quota().expect("a quota");
    assert_eq!(quota.buckets().len(), 2);
    assert_eq!(
        (quota.buckets()[0].name(), quota.buckets()[0].limit(), quota.buckets()[0].remaining()),
        ("per_hour", 10, 3)
    );
    assert_eq!(quota.exhausted_for(), seconds(43_200));
}

#[tokio::test]
async fn the_status_includes_the_quota_from_the_last_token_response() {
    let response = ResponseTemplate::new(200)
        .insert_header("Auth0-Client-Quota-Limit", "b=per_day;q=50;r=12;t=60")
        .set_body_json(json!({ "access_token": "opaque", "token_type": "Bearer" }));
    let server = serve(response).await;
    let cache = TokenCache::new(client_of(&server.uri()).build().unwrap());
    cache.token().await.unwrap();
    let status = cache.status();
    let quota = status.quota().expect("a quota");
    assert_eq!(quota.buckets()[0].remaining(), 12);
}
