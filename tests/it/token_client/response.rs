//! Rows T: what the token endpoint can answer, and what becomes of it.

use std::{io::Write as _, time::Duration};

use flate2::{Compression, write::GzEncoder};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sitecore_auth::TokenCache;
use sitecore_token::{Error, ErrorKind, MAX_LIFETIME, TokenResponse};
use wiremock::ResponseTemplate;

use crate::support::{Logs, RawServer, Then, client_of, everything_said, jwt, serve};

/// Fetches from a server that answers 200 with this body.
async fn answered(body: impl AsRef<[u8]>) -> Result<TokenResponse, Error> {
    fetched(ResponseTemplate::new(200).set_body_raw(body.as_ref(), "application/json")).await
}

async fn fetched(answer: ResponseTemplate) -> Result<TokenResponse, Error> {
    let server = serve(answer).await;
    client_of(&server.uri()).build()?.fetch().await
}

/// The life of a token whose answer has this `expires_in`, as JSON text.
async fn life(expires_in: &str) -> Result<Option<Duration>, Error> {
    let body =
        format!(r#"{{"access_token":"opaque","token_type":"Bearer","expires_in":{expires_in}}}"#);
    Ok(answered(body).await?.expires_in())
}

fn malformed(answer: Result<TokenResponse, Error>) -> Error {
    let error = answer.expect_err("an error");
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error:?}");
    error
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_missing_lifetime_is_taken_from_the_token_itself() {
    let token = jwt(&json!({ "iat": 1_000, "exp": 1_900 }));
    for expires_in in [None, Some(Value::Null)] {
        let mut body = json!({ "access_token": token, "token_type": "Bearer" });
        if let Some(expires_in) = expires_in {
            body["expires_in"] = expires_in;
        }
        assert_eq!(answered(body.to_string()).await.unwrap().expires_in(), seconds(900));
    }
    let opaque = answered(r#"{"access_token":"opaque","token_type":"Bearer"}"#).await.unwrap();
    assert_eq!(opaque.expires_in(), None);
}

#[tokio::test]
async fn a_lifetime_may_be_a_text_or_a_fraction() {
    for (expires_in, expected) in [
        (r#""86400""#, 86_400),
        ("86400.0", 86_400),
        ("8.64e4", 86_400),
        ("899.99", 899),
        (r#"" 60 ""#, 60),
    ] {
        assert_eq!(life(expires_in).await.unwrap(), seconds(expected), "{expires_in}");
    }
}

#[tokio::test]
async fn a_lifetime_below_a_second_is_not_zero() {
    assert_eq!(life("0.5").await.unwrap(), Some(Duration::from_millis(500)));
}

#[tokio::test]
async fn a_lifetime_of_zero_counts_as_not_said_and_is_warned_of() {
    let logs = Logs::capture();
    let token = jwt(&json!({ "iat": 1_000, "exp": 1_900 }));
    let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 0 });
    assert_eq!(answered(body.to_string()).await.unwrap().expires_in(), seconds(900));
    assert_eq!(life("0").await.unwrap(), None);
    assert!(logs.text().contains("expires_in 0"), "{}", logs.text());
}

#[tokio::test]
async fn a_lifetime_that_is_no_number_is_malformed() {
    for expires_in in
        ["-1", "NaN", "true", "{}", "[]", r#""abc""#, r#""""#, r#""-5""#, r#""inf""#, r#""0x10""#]
    {
        let error = life(expires_in).await.expect_err(expires_in);
        assert_eq!(error.kind(), ErrorKind::Malformed, "{expires_in}");
    }
}

#[tokio::test]
async fn an_enormous_lifetime_is_capped() {
    for expires_in in
        ["1000000000000000000", "1e18", "99999999999999999999999999", "1e400", r#""1e300""#]
    {
        assert_eq!(life(expires_in).await.unwrap(), Some(MAX_LIFETIME), "{expires_in}");
    }
}

#[tokio::test]
async fn the_token_type_may_be_written_in_any_case() {
    for kind in ["Bearer", "bearer", "BEARER"] {
        let body = json!({ "access_token": "opaque", "token_type": kind });
        assert!(answered(body.to_string()).await.is_ok(), "{kind}");
    }
}

#[tokio::test]
async fn a_missing_token_type_is_taken_as_bearer_and_warned_of() {
    let logs = Logs::capture();
    assert!(answered(r#"{"access_token":"opaque"}"#).await.is_ok());
    assert!(logs.text().contains("no token_type"), "{}", logs.text());
}

#[tokio::test]
async fn a_foreign_token_type_is_refused_by_name() {
    for kind in ["MAC", "DPoP", "N_A"] {
        let body = json!({ "access_token": "opaque", "token_type": kind });
        let error = malformed(answered(body.to_string()).await);
        assert!(error.to_string().contains(kind), "{error}");
    }
    // A token in the wrong place is not told.
    let body =
        json!({ "access_token": "opaque", "token_type": "eyJhbGciOiJSUzI1NiJ9.sentinel.c2ln" });
    assert!(!everything_said(&malformed(answered(body.to_string()).await)).contains("sentinel"));
}

#[tokio::test]
async fn a_scope_of_another_type_is_ignored() {
    let body = json!({ "access_token": "opaque", "scope": ["a", "b"] });
    assert_eq!(answered(body.to_string()).await.unwrap().scopes().count(), 0);
}

#[tokio::test]
async fn an_answer_without_a_token_is_malformed() {
    for token in [
        r#"{"token_type":"Bearer"}"#,
        r#"{"access_token":null}"#,
        r#"{"access_token":""}"#,
        r#"{"access_token":"="}"#,
        r#"{"access_token":7}"#,
        r#"{"access_token":["a"]}"#,
    ] {
        malformed(answered(token).await);
    }
}

#[tokio::test]
async fn a_token_that_no_header_can_carry_is_malformed_and_not_quoted() {
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
            answered(json!({ "access_token": bad, "token_type": "Bearer" }).to_string()).await,
        );
        assert!(!everything_said(&error).contains("tinel"), "{error:?}");
    }
}

#[tokio::test]
async fn a_token_of_over_32_kib_is_malformed_with_its_size() {
    let fits = json!({ "access_token": "a".repeat(32 * 1024), "token_type": "Bearer" });
    assert!(answered(fits.to_string()).await.is_ok());
    let long = json!({ "access_token": "a".repeat(32 * 1024 + 1), "token_type": "Bearer" });
    let error = malformed(answered(long.to_string()).await);
    assert!(error.to_string().contains("32769"), "{error}");
}

#[tokio::test]
async fn an_opaque_token_is_accepted() {
    let answer = answered(
        r#"{"access_token":"not.a-jwt","token_type":"Bearer","expires_in":60,"scope":"a b"}"#,
    )
    .await
    .unwrap();
    assert_eq!(answer.access_token().expose_secret(), "not.a-jwt");
    assert!(answer.claims().is_none());
    assert_eq!(answer.scopes().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn the_shorter_of_two_lives_counts() {
    for (claimed, promised, expected) in [(900, 86_400, 900), (86_400, 900, 900)] {
        let token = jwt(&json!({ "iat": 1_000, "exp": 1_000 + claimed }));
        let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": promised });
        assert_eq!(answered(body.to_string()).await.unwrap().expires_in(), seconds(expected));
    }
    let backwards = jwt(&json!({ "iat": 2_000, "exp": 1_000 }));
    let body = json!({ "access_token": backwards, "token_type": "Bearer", "expires_in": 60 });
    assert_eq!(answered(body.to_string()).await.unwrap().expires_in(), seconds(60));
}

#[tokio::test]
async fn a_success_with_an_error_inside_is_sorted_by_its_code() {
    for (code, kind) in [
        ("access_denied", ErrorKind::Refused),
        ("invalid_client", ErrorKind::Refused),
        ("too_many_requests", ErrorKind::RateLimited),
        ("temporarily_unavailable", ErrorKind::Unavailable),
        ("server_error", ErrorKind::Unavailable),
    ] {
        let error = answered(json!({ "error": code }).to_string()).await.expect_err(code);
        assert_eq!(error.kind(), kind, "{code}");
        assert_eq!(error.refusal().expect("a refusal").code(), code);
    }
}

#[tokio::test]
async fn a_page_or_a_torn_answer_is_malformed_and_may_pass() {
    let page = "<!doctype html><title>sentinel</title>";
    let error =
        malformed(fetched(ResponseTemplate::new(200).set_body_raw(page, "text/html")).await);
    assert!(error.is_transient());
    let said = everything_said(&error);
    assert!(said.contains("text/html") && said.contains(&page.len().to_string()), "{said}");
    assert!(!said.contains("sentinel"), "{said}");
    for torn in ["", r#"{"access_token":"opa"#, "{"] {
        assert!(malformed(answered(torn).await).is_transient(), "{torn}");
    }
    for head in [
        "content-length: 100",
        "transfer-encoding: chunked",
        "content-encoding: gzip\r\ncontent-length: 9",
    ] {
        let raw = format!("HTTP/1.1 200 OK\r\ncontent-type: a/b\r\n{head}\r\n\r\n9\r\n{{\"acce");
        let server = RawServer::start(raw, Then::Close).await;
        let error = malformed(client_of(&server.url()).build().unwrap().fetch().await);
        assert!(error.is_transient() && error.to_string().contains("a/b"), "{error}");
    }
}

#[tokio::test]
async fn json_is_read_whatever_its_content_type_and_padding() {
    let json = r#"{"access_token":"opaque","token_type":"Bearer"}"#;
    for content_type in ["text/plain", "application/octet-stream", ""] {
        let answer = ResponseTemplate::new(200).set_body_raw(json, content_type);
        assert!(fetched(answer).await.is_ok(), "{content_type}");
    }
    let raw = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{json}", json.len());
    let server = RawServer::start(raw, Then::Close).await;
    assert!(client_of(&server.url()).build().unwrap().fetch().await.is_ok());
    assert!(answered(format!("\u{feff}{json}")).await.is_ok());
    assert!(answered(format!(" \r\n\t{json} \n")).await.is_ok());
}

#[tokio::test]
async fn an_ambiguous_or_deep_answer_is_malformed() {
    let deep = |member: &str| {
        format!(
            r#"{{"access_token":"opaque","{member}":{}{}}}"#,
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
        // Whole, and wrong: it is not asked for again at once.
        assert!(!malformed(answered(body).await).is_transient());
    }
    // Brackets in a string are no nesting.
    let text = format!(
        r#"{{"access_token":"opaque","note":"{}\" {}"}}"#,
        "[".repeat(100),
        "{".repeat(100)
    );
    assert!(answered(text).await.is_ok());
}

#[tokio::test]
async fn a_large_body_is_cut_at_a_mebibyte() {
    let padded = |size: usize| {
        let body = r#"{"access_token":"opaque"}"#;
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    assert!(answered(padded(1024 * 1024)).await.is_ok());
    malformed(answered(padded(1024 * 1024 + 1)).await);
    malformed(answered(padded(10_000_000)).await);
}

#[tokio::test]
async fn an_endless_body_is_cut_at_a_mebibyte() {
    let chunk = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
        format!("{:x}\r\n{}\r\n", 65_536, " ".repeat(65_536)).repeat(20)
    );
    let server = RawServer::start(chunk, Then::Hang).await;
    malformed(client_of(&server.url()).build().unwrap().fetch().await);
}

#[tokio::test]
async fn the_cap_holds_after_decompression() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![b' '; 100_000_000]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 200_000);
    let answer = ResponseTemplate::new(200)
        .insert_header("content-encoding", "gzip")
        .set_body_raw(bomb, "application/json");
    malformed(fetched(answer).await);

    let mut small = GzEncoder::new(Vec::new(), Compression::best());
    small.write_all(br#"{"access_token":"opaque"}"#).unwrap();
    let answer = ResponseTemplate::new(200)
        .insert_header("content-encoding", "gzip")
        .set_body_raw(small.finish().unwrap(), "application/json");
    assert!(fetched(answer).await.is_ok());
}

#[tokio::test]
async fn one_deadline_covers_headers_and_body() {
    let pace = Duration::from_millis(20);
    for bytes in [
        "HTTP/1.1 200 OK\r\nx-endless: a",
        "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n ",
        "HTTP/1.1 200 OK\r\n",
    ] {
        let server = RawServer::start(bytes, Then::Repeat(pace)).await;
        let client = client_of(&server.url()).timeout(Duration::from_millis(300)).build().unwrap();
        let begun = tokio::time::Instant::now();
        let error = client.fetch().await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_transient());
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(3), "{took:?}");
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn unknown_members_are_neither_kept_nor_logged() {
    let logs = Logs::capture();
    let body = json!({ "access_token": "opaque", "token_type": "Bearer", "refresh_token": "sentinel-refresh", "id_token": "sentinel-id", "x": { "y": [1] } });
    let answer = answered(body.to_string()).await.unwrap();
    let said = format!("{answer:?}{answer:#?}{}", logs.text());
    assert!(!said.contains("sentinel") && !said.contains("opaque"), "{said}");
}

#[tokio::test]
async fn only_status_200_carries_a_token() {
    for status in [201, 202, 203, 204, 206] {
        let answer = ResponseTemplate::new(status)
            .set_body_raw(r#"{"access_token":"opaque"}"#, "application/json");
        let error = malformed(fetched(answer).await);
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
}

#[tokio::test]
async fn claims_scopes_and_quota_are_readable() {
    let token = jwt(&json!({
        "iss": "https://auth.example/", "sub": "id@clients", "azp": "id", "aud": ["a", "b"], "scope": "x:y z",
        "https://auth.sitecorecloud.io/claims/org_name": "acme",
    }));
    let answer = ResponseTemplate::new(200)
        .insert_header(
            "Auth0-Client-Quota-Limit",
            "b=per_hour;q=10;r=3;t=3540,b=per_day;q=50;r=0;t=43200",
        )
        .set_body_json(json!({ "access_token": token, "token_type": "Bearer" }));
    let answer = fetched(answer).await.unwrap();
    let claims = answer.claims().expect("a JWT");
    assert_eq!(claims.issuer(), Some("https://auth.example/"));
    assert_eq!(claims.subject(), Some("id@clients"));
    assert_eq!(claims.client_id(), Some("id"));
    assert_eq!(claims.audiences().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(claims.sitecore("org_name"), Some("acme"));
    assert_eq!(answer.scopes().collect::<Vec<_>>(), ["x:y", "z"]);
    let quota = answer.quota().expect("a quota");
    assert_eq!(quota.buckets().len(), 2);
    assert_eq!(
        (quota.buckets()[0].name(), quota.buckets()[0].limit(), quota.buckets()[0].remaining()),
        ("per_hour", 10, 3)
    );
    assert_eq!(quota.exhausted_for(), seconds(43_200));
}

#[tokio::test]
async fn the_quota_told_with_the_last_token_is_in_the_status() {
    let answer = ResponseTemplate::new(200)
        .insert_header("Auth0-Client-Quota-Limit", "b=per_day;q=50;r=12;t=60")
        .set_body_json(json!({ "access_token": "opaque", "token_type": "Bearer" }));
    let server = serve(answer).await;
    let cache = TokenCache::new(client_of(&server.uri()).build().unwrap());
    cache.token().await.unwrap();
    let status = cache.status();
    let quota = status.quota().expect("a quota");
    assert_eq!(quota.buckets()[0].remaining(), 12);
}
