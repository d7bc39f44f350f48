//! Connections: network errors, TLS, redirects, proxies, and one request per call of `fetch`.

use serde_json::json;
use sitecore_auth::TokenCache;
use sitecore_token::ErrorKind;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use super::{error_of, granting};
use crate::support::{
    AfterWrite, HttpAndHttps, Logs, RawServer, SECOND, client_of, requests, serve,
};

#[tokio::test]
async fn network_errors_name_the_phase_and_the_host() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let plain = RawServer::start("HTTP/1.1 400 Bad Request\r\n\r\n", AfterWrite::Close).await;
    let silent = RawServer::start("", AfterWrite::Close).await;
    // How TLS servers end an unencrypted connection.
    let tls_alert = RawServer::start("\u{15}\u{3}\u{3}\0\u{2}\u{2}\n", AfterWrite::Close).await;
    let https = HttpAndHttps::start().await;
    for (url, text, host, never_reached) in [
        (format!("http://127.0.0.1:{closed}/t"), "could not connect to", "127.0.0.1", true),
        ("https://issuer.invalid/t".to_owned(), "could not resolve", "issuer.invalid", true),
        (format!("https://127.0.0.1:{}/t", plain.port()), "does not speak TLS", "127.0.0.1", false),
        (format!("https://localhost:{}/t", https.port()), "root certificate", "localhost", false),
        (silent.url(), "was interrupted", "127.0.0.1", false),
        (tls_alert.url(), "does not speak HTTP", "127.0.0.1", false),
    ] {
        let client = client_of(&url).http(reqwest::Client::builder().no_proxy()).build().unwrap();
        let error = client.fetch().await.expect_err("no response");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_transient());
        assert_eq!(error.never_reached_issuer(), never_reached, "{error:?}");
        let message = error.to_string();
        assert!(message.contains(text) && message.contains(host), "{message}\n{error:#?}");
        // The source begins below the generic errors of the HTTP client.
        let source = std::error::Error::source(&error).expect("a source").to_string();
        assert!(!source.contains("error sending request"), "{source}");
    }
}

#[tokio::test]
async fn a_call_gets_its_token_although_the_network_comes_up_seconds_later() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let cache = TokenCache::new(client_of(&format!("http://{address}/t")).build().unwrap());
    let network = async {
        sleep(3 * SECOND).await;
        let listener = std::net::TcpListener::bind(address).unwrap();
        let token = ResponseTemplate::new(200).set_body_json(json!({ "access_token": "opaque" }));
        let server = MockServer::builder().listener(listener).start().await;
        Mock::given(any()).respond_with(token).mount(&server).await;
        server
    };
    let started = Instant::now();
    let (token, server) = tokio::join!(cache.token(), network);
    token.expect("a token");
    let waited = started.elapsed();
    assert!((3 * SECOND..9 * SECOND).contains(&waited), "{waited:?}");
    assert_eq!(requests(&server).await.len(), 1);
}

#[tokio::test]
async fn a_proxy_that_fails_is_named_as_such() {
    let error = async |proxy: String| {
        let proxy = reqwest::Client::builder().proxy(reqwest::Proxy::https(proxy).unwrap());
        let client = client_of("https://issuer.example/t").http(proxy).build().unwrap();
        let error = client.fetch().await.expect_err("no tunnel");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.never_reached_issuer() && error.is_transient(), "{error:?}");
        error.to_string()
    };
    for (status, advice) in [
        ("407 Proxy Authentication Required", "the proxy for issuer.example requires credentials"),
        ("403 Forbidden", "the proxy did not connect to issuer.example"),
        ("502 Bad Gateway", "NO_PROXY"),
    ] {
        let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let proxy = RawServer::start(response, AfterWrite::Close).await;
        let message = error(format!("http://127.0.0.1:{}", proxy.port())).await;
        assert!(message.contains(advice), "{status}: {message}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for proxy in [format!("http://{closed}"), "http://no-such-proxy.invalid:8080".to_owned()] {
        let message = error(proxy).await;
        assert!(message.contains("the proxy did not connect"), "{message}");
    }
}

#[test]
fn a_runtime_without_io_or_timers_is_a_config_error() {
    let client = client_of("http://127.0.0.1:1/t").build().unwrap();
    let builder = tokio::runtime::Builder::new_current_thread;
    for runtime in
        [builder().enable_time().build(), builder().enable_io().build(), builder().build()]
    {
        let error = runtime.unwrap().block_on(client.fetch()).expect_err("no token");
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.to_string().contains("enable_all()"), "{error}");
    }
    let error = futures_util::FutureExt::now_or_never(client.fetch()).expect("an end").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
}

#[tokio::test]
async fn a_page_instead_of_a_token_points_to_a_proxy_or_a_sign_in_page() {
    let page = ResponseTemplate::new(200).set_body_raw("<h1>Guest network</h1>", "text/html");
    let message = error_of(page).await.to_string();
    assert!(
        message.contains("sign-in page") && message.contains("text/html, 22 bytes"),
        "{message}"
    );
    assert!(!message.contains("Guest"), "{message}");
    let message = error_of(ResponseTemplate::new(407)).await.to_string();
    assert!(message.contains("user name and a password to the proxy"), "{message}");
}

#[tokio::test]
async fn a_connection_reset_in_the_body_is_a_network_error() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"access";
    let server = RawServer::start(half, AfterWrite::Reset).await;
    let error = client_of(&server.url()).build().unwrap().fetch().await.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("connection to 127.0.0.1 was interrupted"), "{error}");
}

#[tokio::test]
async fn tls_is_never_downgraded() {
    let plain = MockServer::start().await;
    let url = plain.uri().replace("http://", "https://");
    assert!(client_of(&url).build().unwrap().fetch().await.is_err());
    assert!(requests(&plain).await.is_empty());
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let elsewhere = serve(ResponseTemplate::new(200)).await;
    for status in [301, 302, 303, 307, 308] {
        let server =
            serve(ResponseTemplate::new(status).insert_header("location", elsewhere.uri())).await;
        // Not even if the caller's own builder follows redirects.
        let following = reqwest::Client::builder().redirect(reqwest::redirect::Policy::limited(10));
        let error = client_of(&server.uri())
            .http(following)
            .build()
            .unwrap()
            .fetch()
            .await
            .expect_err("a redirect");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_transient() && error.to_string().contains("127.0.0.1"), "{error}");
    }
    assert!(requests(&elsewhere).await.is_empty());
    let error =
        error_of(ResponseTemplate::new(307).insert_header("location", "https://login.example/x"))
            .await;
    assert!(error.to_string().contains("login.example"), "{error}");
    error_of(ResponseTemplate::new(302)).await;
}

#[tokio::test]
async fn fetch_sends_one_request_whatever_happens() {
    for status in [200, 401, 429, 500, 503] {
        let server = serve(ResponseTemplate::new(status)).await;
        assert!(client_of(&server.uri()).build().unwrap().fetch().await.is_err());
        assert_eq!(requests(&server).await.len(), 1, "{status}");
    }
    let closing = RawServer::start("", AfterWrite::Close).await;
    assert!(client_of(&closing.url()).build().unwrap().fetch().await.is_err());
    assert_eq!(closing.connections(), 1);
}

#[tokio::test]
async fn fetch_uses_its_own_connection_without_retries_and_logs_no_secret() {
    let logs = Logs::capture();
    let body = r#"{"access_token":"a-token-sentinel","token_type":"Bearer"}"#;
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // The server leaves its connections open.
    let server = RawServer::start(response, AfterWrite::Hang).await;
    let http = || {
        let retry = reqwest::retry::for_host("127.0.0.1").no_budget().classify_fn(|attempt| {
            let failed = attempt.status().is_some_and(|status| status.is_server_error());
            if failed { attempt.retryable() } else { attempt.success() }
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
    assert_eq!(requests(&failing).await.len(), 1);
    let text = logs.text();
    for secret in ["a-token-sentinel", "s3cret"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn a_secret_for_a_loopback_endpoint_never_goes_to_a_proxy() {
    let proxy = serve(ResponseTemplate::new(200)).await;
    let server = granting().await;
    let port = server.address().port();
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("http://{host}:{port}/oauth/token");
        let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
        let client = temp_env::with_vars(names.map(|name| (name, Some(proxy.uri()))), || {
            client_of(&url).build().unwrap()
        });
        client.fetch().await.unwrap();
        let with_proxy =
            reqwest::Client::builder().proxy(reqwest::Proxy::all(proxy.uri()).unwrap());
        client_of(&url).http(with_proxy).build().unwrap().fetch().await.unwrap();
    }
    assert!(requests(&proxy).await.is_empty());
    assert_eq!(requests(&server).await.len(), 4);
}

#[tokio::test]
async fn localhost_is_loopback_whatever_the_resolver_returns() {
    let server = granting().await;
    let url = format!("http://localhost:{}/oauth/token", server.address().port());
    // 192.0.2.0/24 is reserved for documentation, so no host has this address.
    let misleading = reqwest::Client::builder().resolve("localhost", ([192, 0, 2, 1], 0).into());
    client_of(&url).http(misleading).timeout(5 * SECOND).build().unwrap().fetch().await.unwrap();
}
