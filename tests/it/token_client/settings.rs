//! Endpoints and client settings: what is accepted, and what `Debug` shows.

use std::time::Duration;

use sitecore_token::{ClientCredentials, Encoding, Endpoint, ErrorKind, TokenClient};
use url::Url;

#[test]
fn plain_http_is_accepted_only_for_loopback() {
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

#[test]
fn empty_credentials_are_a_config_error() {
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
fn invalid_settings_are_an_error_when_the_client_is_built() {
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
fn only_the_names_of_extra_parameters_are_shown() {
    let client = TokenClient::builder(ClientCredentials::new("id", "secret"))
        .parameter("resource", "sentinel");
    let mut shown = format!("{client:?}");
    shown += &format!("{:?}", client.build().unwrap());
    assert!(shown.contains("resource") && !shown.contains("sentinel"), "{shown}");
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

#[test]
fn a_token_url_without_a_path_is_an_error_when_the_client_is_built() {
    for url in [
        "https://auth.sitecorecloud.io",
        "https://auth.sitecorecloud.io/",
        "http://127.0.0.1:1/?code=sentinel",
    ] {
        let endpoint = Endpoint::new(url.parse().unwrap(), "a").unwrap();
        let client =
            TokenClient::builder(ClientCredentials::new("id", "secret")).endpoint(endpoint);
        let error = client.build().expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Config);
        let message = error.to_string();
        assert!(message.contains("/oauth/token") && !message.contains("sentinel"), "{message}");
    }
}
