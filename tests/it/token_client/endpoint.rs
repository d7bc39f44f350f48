//! Rows N, as far as one grant can show them: refusals, limits, the network, redirects, proxies.

use std::time::Duration;

use serde_json::json;
use sitecore_token::{ClientCredentials, Encoding, Endpoint, Error, ErrorKind, TokenClient};
use tokio::net::TcpListener;
use url::{Url, form_urlencoded};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use crate::support::{Logs, RawServer, SECRET, Then, client_of, everything_said, serve};

async fn error_of(answer: ResponseTemplate) -> Error {
    let server = serve(answer).await;
    client_of(&server.uri()).build().unwrap().fetch().await.expect_err("an error")
}

fn refusing(status: u16, code: &str, description: &str) -> ResponseTemplate {
    ResponseTemplate::new(status)
        .set_body_json(json!({ "error": code, "error_description": description }))
}

const DATE: &str = "Sun, 22 Nov 2026 12:00:00 GMT";
const TWO_MINUTES_LATER: &str = "Sun, 22 Nov 2026 12:02:00 GMT";
const TWO_MINUTES_LATER_UNIX: &str = "1795348920";

/// The wait named by a 429 with these headers.
async fn wait_of(headers: &[(&str, &str)]) -> Option<Duration> {
    // A raw server: others add a `Date` of their own.
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let raw = format!("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n{headers}\r\n");
    let server = RawServer::start(raw, Then::Close).await;
    let error = client_of(&server.url()).build().unwrap().fetch().await.expect_err("a 429");
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    error.retry_after()
}

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
        let error = error_of(refusing(status, code, description)).await;
        assert_eq!(error.kind(), ErrorKind::Refused, "{status} {code}");
        assert!(!error.is_transient());
        let said = error.to_string();
        assert!(
            said.contains(advice) && said.contains(code) && said.contains(&status.to_string()),
            "{said}"
        );
        let refusal = error.refusal().expect("a refusal");
        assert_eq!(
            (refusal.status(), refusal.code(), refusal.description()),
            (status, code, Some(description))
        );
    }
}

#[tokio::test]
async fn a_refusal_that_quotes_the_secret_does_not_pass_it_on() {
    let encoded: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    for echo in [SECRET, &encoded] {
        let error = error_of(refusing(401, "access_denied", &format!("bad secret {echo}!"))).await;
        assert_eq!(
            error.refusal().and_then(|refusal| refusal.description()),
            Some("bad secret [redacted]!")
        );
        let said = everything_said(&error);
        assert!(!said.contains(SECRET) && !said.contains(&encoded), "{said}");
    }
    // Not in any encoding that a server might use.
    for echo in [
        "S3CRET-SENTINEL-%25%2b",
        "s3cret-sentinel-%25+\\u0026",
        "s3cret-sen\ntinel-%+&=:/ ü",
        "s3cret-sentinel-%+&amp;=:/",
    ] {
        let error = error_of(refusing(401, "access_denied", &format!("bad secret {echo}!"))).await;
        let said = everything_said(&error).to_lowercase();
        assert!(!said.contains("sentinel"), "{said}");
    }
    // Nor the value of another parameter.
    let server = serve(refusing(401, "access_denied", "bad assertion p4rameter")).await;
    let client = client_of(&server.uri()).parameter("assertion", "p4rameter").build().unwrap();
    assert!(!everything_said(&client.fetch().await.unwrap_err()).contains("p4rameter"));
    // Not even where a code, a type or a host is quoted.
    let client = |answer| async move {
        let server = serve(answer).await;
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
    for answer in [
        ResponseTemplate::new(401).set_body_json(json!({ "error": "sentinel" })),
        ResponseTemplate::new(200)
            .set_body_json(json!({ "access_token": "a", "token_type": "sentinel" })),
        ResponseTemplate::new(200).set_body_raw("", "text/sentinel"),
        ResponseTemplate::new(302).insert_header("location", "https://sentinel.example/"),
    ] {
        let error = client(answer).await;
        assert!(!everything_said(&error).contains("sentinel"), "{error:?}");
    }
}

#[tokio::test]
async fn a_client_error_without_an_oauth_code_may_pass() {
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
async fn retry_after_is_read_as_seconds_or_as_a_date() {
    assert_eq!(wait_of(&[("retry-after", "17")]).await, Some(Duration::from_secs(17)));
    assert_eq!(
        wait_of(&[("retry-after", TWO_MINUTES_LATER), ("date", DATE)]).await,
        Some(Duration::from_secs(120))
    );
    // Without the answer's own date there is nothing to measure against: this crate has no clock.
    assert_eq!(wait_of(&[("retry-after", TWO_MINUTES_LATER)]).await, None);
    let error = error_of(ResponseTemplate::new(503).insert_header("retry-after", "5")).await;
    assert_eq!(
        (error.kind(), error.retry_after()),
        (ErrorKind::Unavailable, Some(Duration::from_secs(5)))
    );
}

#[tokio::test]
async fn a_wait_of_hours_is_told_at_once() {
    let begun = tokio::time::Instant::now();
    let error =
        error_of(refusing(429, "too_many_requests", "").insert_header("retry-after", "43200"))
            .await;
    assert_eq!(
        (error.kind(), error.retry_after()),
        (ErrorKind::RateLimited, Some(Duration::from_secs(43_200)))
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn the_wait_is_derived_from_quota_headers() {
    let quota = "auth0-client-quota-limit";
    let hour = "b=per_hour;q=10;r=0;t=3540,b=per_day;q=50;r=12;t=43200";
    assert_eq!(wait_of(&[(quota, hour)]).await, Some(Duration::from_secs(3540)));
    let both = "b=per_hour;q=10;r=0;t=3540,b=per_day;q=50;r=0;t=43200";
    assert_eq!(wait_of(&[(quota, both)]).await, Some(Duration::from_secs(43_200)));
    let reset = ("x-ratelimit-reset", TWO_MINUTES_LATER_UNIX);
    assert_eq!(wait_of(&[reset, ("date", DATE)]).await, Some(Duration::from_secs(120)));
    assert_eq!(wait_of(&[reset]).await, None);
    assert_eq!(wait_of(&[("retry-after", "7"), (quota, both)]).await, Some(Duration::from_secs(7)));
    for broken in
        ["", "b=per_hour", "b=per_hour;q=10;r=0;t=-1", "nonsense;;==,,", "b=per_hour;q=10;r=5;t=60"]
    {
        assert_eq!(wait_of(&[(quota, broken)]).await, None, "{broken}");
    }
}

#[tokio::test]
async fn a_senseless_retry_after_is_none() {
    for value in ["-5", "abc", "", "0", "1.5", "Sun, 22 Nov 2026 11:00:00 GMT"] {
        assert_eq!(wait_of(&[("retry-after", value), ("date", DATE)]).await, None, "{value}");
    }
    assert_eq!(
        wait_of(&[("retry-after", "1000000000")]).await,
        Some(Duration::from_secs(1_000_000_000))
    );
    assert_eq!(
        wait_of(&[("retry-after", "abc"), ("retry-after", "7")]).await,
        Some(Duration::from_secs(7))
    );
    let error = error_of(ResponseTemplate::new(503).insert_header("retry-after", "0")).await;
    assert_eq!(error.retry_after(), None);
    let beyond = wait_of(&[("retry-after", "99999999999999999999999")]).await;
    assert_eq!(beyond, Some(Duration::from_secs(u64::MAX)));
}

#[tokio::test]
async fn quota_headers_of_other_failures_are_no_reason_to_wait() {
    // Auth0 tells its limits with every answer.
    let limits = "x-ratelimit-remaining: 42\r\nx-ratelimit-reset: 1795348920\r\nauth0-client-quota-limit: b=h;q=10;r=0;t=60";
    for status in ["503 Busy", "403 Forbidden", "500 Oops"] {
        let raw =
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\ndate: {DATE}\r\n{limits}\r\n\r\n");
        let server = RawServer::start(raw, Then::Close).await;
        let error = client_of(&server.url()).build().unwrap().fetch().await.expect_err(status);
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, None), "{status}");
    }
}

#[tokio::test]
async fn a_server_in_trouble_may_recover() {
    for status in [408, 500, 502, 503, 504, 520] {
        let error = error_of(ResponseTemplate::new(status)).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{status}");
        assert!(error.is_transient());
    }
    let error = error_of(refusing(503, "invalid_client", "")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn network_errors_name_the_phase_and_the_host() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let plain = RawServer::start("HTTP/1.1 400 Bad Request\r\n\r\n", Then::Close).await;
    let mute = RawServer::start("", Then::Close).await;
    for (url, phase, host) in [
        (format!("http://127.0.0.1:{closed}/"), "could not connect to", "127.0.0.1"),
        (format!("https://127.0.0.1:{}/", plain.port()), "TLS handshake", "127.0.0.1"),
        (mute.url(), "was interrupted", "127.0.0.1"),
        ("https://issuer.invalid/".to_owned(), "could not resolve", "issuer.invalid"),
    ] {
        let client = client_of(&url).http(reqwest::Client::builder().no_proxy()).build().unwrap();
        let error = client.fetch().await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_transient());
        let said = error.to_string();
        assert!(said.contains(phase) && said.contains(host), "{said}\n{error:#?}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[tokio::test]
async fn a_connection_reset_in_the_body_is_a_network_error() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"access";
    let server = RawServer::start(half, Then::Reset).await;
    let error = client_of(&server.url()).build().unwrap().fetch().await.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("connection to 127.0.0.1 was interrupted"), "{error}");
}

#[tokio::test]
async fn tls_is_never_downgraded() {
    let plain = MockServer::start().await;
    let url = plain.uri().replace("http://", "https://");
    assert!(client_of(&url).build().unwrap().fetch().await.is_err());
    assert!(plain.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let elsewhere = serve(ResponseTemplate::new(200)).await;
    for status in [301, 302, 303, 307, 308] {
        let server =
            serve(ResponseTemplate::new(status).insert_header("location", elsewhere.uri())).await;
        // Not even if the builder that was given says so.
        let eager = reqwest::Client::builder().redirect(reqwest::redirect::Policy::limited(10));
        let error = client_of(&server.uri())
            .http(eager)
            .build()
            .unwrap()
            .fetch()
            .await
            .expect_err("a redirect");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_transient() && error.to_string().contains("127.0.0.1"), "{error}");
    }
    assert!(elsewhere.received_requests().await.unwrap().is_empty());
    let error =
        error_of(ResponseTemplate::new(307).insert_header("location", "https://login.example/x"))
            .await;
    assert!(error.to_string().contains("login.example"), "{error}");
    error_of(ResponseTemplate::new(302)).await;
}

#[test]
fn http_is_refused_at_build_but_for_loopback() {
    let endpoint = |url: &str| Endpoint::new(url.parse::<Url>().unwrap(), "audience");
    for good in [
        "https://issuer.example/t",
        "http://127.0.0.1:1/t",
        "http://127.8.8.8/t",
        "http://[::1]:1/t",
        "http://localhost/t",
    ] {
        assert!(endpoint(good).is_ok(), "{good}");
    }
    for bad in [
        "http://issuer.example/t",
        "http://localhost.evil.com/t",
        "http://sub.localhost/t",
        "http://localhost./t",
        "http://10.0.0.1/t",
        "ftp://localhost/t",
        "https://user@issuer.example/t",
        "https://:pw@issuer.example/t",
        "https://issuer.example/t#x",
    ] {
        let error = endpoint(bad).expect_err(bad);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!error.to_string().contains("pw"), "{error}");
    }
    let error = endpoint("http://issuer.example/t").unwrap_err();
    assert!(
        error.to_string().contains("https") && error.to_string().contains("issuer.example"),
        "{error}"
    );
    assert!(Endpoint::new("https://issuer.example/t".parse().unwrap(), " ").is_err());
}

#[tokio::test]
async fn every_character_of_a_secret_arrives() {
    let secret = "100% + a&b=c:d/e ü \"quoted\" \\ 漢";
    for encoding in [Encoding::Form, Encoding::Json] {
        let server =
            serve(ResponseTemplate::new(200).set_body_json(json!({ "access_token": "opaque" })))
                .await;
        let endpoint = Endpoint::new(server.uri().parse().unwrap(), "https://api.example").unwrap();
        // As read from a file: with a line end.
        let credentials = ClientCredentials::new("id\n", format!("{secret}\r\n"));
        let client = TokenClient::builder(credentials).endpoint(endpoint).encoding(encoding);
        client
            .scope("a b")
            .parameter("organization", "o&o")
            .build()
            .unwrap()
            .fetch()
            .await
            .unwrap();
        let request = server.received_requests().await.unwrap().remove(0);
        let content_type = request.headers["content-type"].to_str().unwrap().to_owned();
        let pairs: Vec<(String, String)> = match encoding {
            Encoding::Form => {
                assert_eq!(content_type, "application/x-www-form-urlencoded");
                form_urlencoded::parse(&request.body).into_owned().collect()
            }
            _ => {
                assert_eq!(content_type, "application/json");
                let object: serde_json::Map<_, _> = serde_json::from_slice(&request.body).unwrap();
                object
                    .into_iter()
                    .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
                    .collect()
            }
        };
        let mut pairs: Vec<_> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        pairs.sort_unstable();
        assert_eq!(
            pairs,
            [
                ("audience", "https://api.example"),
                ("client_id", "id"),
                ("client_secret", secret),
                ("grant_type", "client_credentials"),
                ("organization", "o&o"),
                ("scope", "a b"),
            ]
        );
    }
}

#[tokio::test]
async fn scope_and_audience_are_sent_only_if_wanted() {
    let server =
        serve(ResponseTemplate::new(200).set_body_json(json!({ "access_token": "opaque" }))).await;
    let endpoint = Endpoint::new(server.uri().parse().unwrap(), "a").unwrap().without_audience();
    let client = TokenClient::builder(ClientCredentials::new("id", "secret"))
        .endpoint(endpoint)
        .build()
        .unwrap();
    client.fetch().await.unwrap();
    let body = server.received_requests().await.unwrap().remove(0).body;
    assert_eq!(
        String::from_utf8(body).unwrap(),
        "grant_type=client_credentials&client_id=id&client_secret=secret"
    );
}

#[tokio::test]
async fn a_grant_is_one_request_whatever_happens() {
    for status in [200, 401, 429, 500, 503] {
        let server = serve(ResponseTemplate::new(status)).await;
        assert!(client_of(&server.uri()).build().unwrap().fetch().await.is_err());
        assert_eq!(server.received_requests().await.unwrap().len(), 1, "{status}");
    }
    let reset = RawServer::start("", Then::Close).await;
    assert!(client_of(&reset.url()).build().unwrap().fetch().await.is_err());
    assert_eq!(reset.connections(), 1);
}

#[test]
fn empty_credentials_are_refused_at_build() {
    for (id, secret, missing) in [
        ("", "s", "client id"),
        ("id", "", "client secret"),
        (" ", "s", "client id"),
        ("id", "\n", "client secret"),
    ] {
        let error = TokenClient::new(ClientCredentials::new(id, secret)).expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(missing), "{error}");
        let good = TokenClient::new(ClientCredentials::new("id", "s")).unwrap();
        assert!(good.with_credentials(ClientCredentials::new(id, secret)).is_err());
    }
}

#[test]
fn senseless_settings_are_refused_at_build() {
    let builder = || TokenClient::builder(ClientCredentials::new("id", "secret"));
    assert!(builder().timeout(Duration::ZERO).build().unwrap_err().to_string().contains("timeout"));
    for name in ["client_secret", "client_id", "grant_type", "audience", "scope"] {
        let error = builder().parameter(name, "x").build().expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
    let twice = || builder().parameter("resource", "a").parameter("resource", "b");
    assert!(twice().build().is_ok());
    assert!(
        twice().encoding(Encoding::Json).build().unwrap_err().to_string().contains("duplicate")
    );
}

#[test]
fn extra_parameters_are_shown_by_their_names_alone() {
    let client = TokenClient::builder(ClientCredentials::new("id", "secret"))
        .parameter("resource", "sentinel");
    let mut shown = format!("{client:?}");
    shown += &format!("{:?}", client.build().unwrap());
    assert!(shown.contains("resource") && !shown.contains("sentinel"), "{shown}");
}

#[tokio::test]
async fn a_grant_is_one_request_on_a_connection_of_its_own_and_not_logged() {
    let logs = Logs::capture();
    let body = r#"{"access_token":"a-token-sentinel","token_type":"Bearer"}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // It does not close its connections.
    let server = RawServer::start(answer, Then::Hang).await;
    let http = || {
        let retry = reqwest::retry::for_host("127.0.0.1").no_budget().classify_fn(|answer| {
            match answer.status() {
                Some(status) if status.is_server_error() => answer.retryable(),
                _ => answer.success(),
            }
        });
        reqwest::Client::builder().connection_verbose(true).pool_max_idle_per_host(8).retry(retry)
    };
    let client = client_of(&server.url()).http(http()).build().unwrap();
    for _ in 0..2 {
        client.fetch().await.expect("a token");
    }
    assert_eq!(server.connections(), 2);
    let failing = serve(ResponseTemplate::new(503)).await;
    let client = client_of(&failing.uri()).http(http()).build().unwrap();
    client.fetch().await.expect_err("no token");
    assert_eq!(failing.received_requests().await.unwrap().len(), 1);
    let text = logs.text();
    for secret in ["a-token-sentinel", "s3cret"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn an_issuers_words_are_quoted_up_to_a_length() {
    let words = "word ".repeat(20_000);
    let body = serde_json::json!({ "error": "access_denied", "error_description": words });
    let server = serve(ResponseTemplate::new(403).set_body_json(body)).await;
    let client = client_of(&server.uri()).build().unwrap();
    let error = client.fetch().await.expect_err("a refusal");
    let quoted = error.refusal().and_then(|refusal| refusal.description());
    assert_eq!(quoted.map(str::len), Some(300));
}

#[test]
fn a_key_in_the_query_of_a_token_url_is_not_shown() {
    let endpoint =
        Endpoint::new("https://gateway.example/t?code=sentinel".parse().unwrap(), "a").unwrap();
    let client =
        TokenClient::builder(ClientCredentials::new("id", "secret")).endpoint(endpoint.clone());
    let mut shown = format!("{endpoint:?}{client:?}");
    shown += &format!("{:?}", client.build().unwrap());
    assert!(shown.contains("gateway.example/t") && !shown.contains("sentinel"), "{shown}");
    let error = Endpoint::new("https://gateway.example/t?code=sentinel#x".parse().unwrap(), "a")
        .unwrap_err();
    assert!(!error.to_string().contains("sentinel"), "{error}");
}

#[tokio::test]
async fn a_client_with_other_credentials_shares_the_rest() {
    let server =
        serve(ResponseTemplate::new(200).set_body_json(json!({ "access_token": "opaque" }))).await;
    let first = client_of(&server.uri()).scope("a").build().unwrap();
    let second = first.with_credentials(ClientCredentials::new("other", "secret-2")).unwrap();
    second.fetch().await.unwrap();
    let body = String::from_utf8(server.received_requests().await.unwrap().remove(0).body).unwrap();
    assert!(
        body.contains("client_id=other&client_secret=secret-2") && body.contains("scope=a"),
        "{body}"
    );
}

#[tokio::test]
async fn the_secret_for_a_loopback_endpoint_goes_to_no_proxy() {
    let proxy = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200)).mount(&proxy).await;
    let server =
        serve(ResponseTemplate::new(200).set_body_json(json!({ "access_token": "opaque" }))).await;
    let port = server.address().port();
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{port}/oauth/token");
        let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
        let client = temp_env::with_vars(names.map(|name| (name, Some(proxy.uri()))), || {
            client_of(&url).build().unwrap()
        });
        client.fetch().await.unwrap();
        let given = reqwest::Client::builder().proxy(reqwest::Proxy::all(proxy.uri()).unwrap());
        client_of(&url).http(given).build().unwrap().fetch().await.unwrap();
    }
    assert!(proxy.received_requests().await.unwrap().is_empty());
    assert_eq!(server.received_requests().await.unwrap().len(), 4);
}

#[tokio::test]
async fn localhost_is_loopback_whatever_the_resolver_says() {
    let server =
        serve(ResponseTemplate::new(200).set_body_json(json!({ "access_token": "opaque" }))).await;
    let url = format!("http://localhost:{}/oauth/token", server.address().port());
    // 192.0.2.0/24 is for documentation: nobody is there.
    let lying = reqwest::Client::builder().resolve("localhost", ([192, 0, 2, 1], 0).into());
    client_of(&url)
        .http(lying)
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap()
        .fetch()
        .await
        .unwrap();
}
