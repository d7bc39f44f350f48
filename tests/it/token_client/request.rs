//! What a token request contains.

use sitecore_token::{ClientAuth, ClientCredentials, Encoding, Endpoint, TokenClient};
use url::form_urlencoded;

use super::granting;
use crate::support::{client_of, requests};

#[tokio::test]
async fn every_character_of_a_secret_arrives() {
    // Also white space at the ends, because a secret that is set in code is used unchanged.
    let secret = " 100% + a&b=c:d/e ü \"quoted\" \\ 漢\r\n";
    for encoding in [Encoding::Form, Encoding::Json] {
        let server = granting().await;
        let url = format!("{}/oauth/token", server.uri());
        let endpoint = Endpoint::new(url.parse().unwrap(), "https://api.example").unwrap();
        let credentials = ClientCredentials::new("id", secret);
        let client = TokenClient::builder(credentials).endpoint(endpoint).encoding(encoding);
        client
            .scope("a b")
            .parameter("organization", "o&o")
            .build()
            .unwrap()
            .fetch()
            .await
            .unwrap();
        let request = requests(&server).await.remove(0);
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
async fn scope_and_audience_are_sent_only_if_set() {
    let server = granting().await;
    let url = format!("{}/oauth/token", server.uri());
    let endpoint = Endpoint::new(url.parse().unwrap(), "a").unwrap().without_audience();
    let client = TokenClient::builder(ClientCredentials::new("id", "secret"))
        .endpoint(endpoint)
        .build()
        .unwrap();
    client.fetch().await.unwrap();
    let body = requests(&server).await.remove(0).body;
    assert_eq!(
        String::from_utf8(body).unwrap(),
        "grant_type=client_credentials&client_id=id&client_secret=secret"
    );
}

#[tokio::test]
async fn a_client_with_other_credentials_shares_all_other_settings() {
    let server = granting().await;
    let first = client_of(&server.uri()).scope("a").build().unwrap();
    let second = first.with_credentials(ClientCredentials::new("other", "secret-2")).unwrap();
    second.fetch().await.unwrap();
    let body = String::from_utf8(requests(&server).await.remove(0).body).unwrap();
    assert!(
        body.contains("client_id=other&client_secret=secret-2") && body.contains("scope=a"),
        "{body}"
    );
}

#[tokio::test]
async fn every_request_has_a_user_agent() {
    let agent = async |builder: Option<reqwest::ClientBuilder>| {
        let server = granting().await;
        let client = client_of(&server.uri());
        let client = match builder {
            Some(builder) => client.http(builder),
            None => client,
        };
        client.build().unwrap().fetch().await.unwrap();
        requests(&server).await.remove(0).headers["user-agent"].to_str().unwrap().to_owned()
    };
    let own = format!("sitecore-auth/{}", "0.2.0");
    assert_eq!(agent(None).await, own);
    assert_eq!(agent(Some(reqwest::Client::builder().no_proxy())).await, own);
    assert_eq!(agent(Some(reqwest::Client::builder().user_agent("mine/1"))).await, "mine/1");
}

#[tokio::test]
async fn http_basic_sends_the_encoded_credentials_in_a_header_only() {
    for encoding in [Encoding::Form, Encoding::Json] {
        let server = granting().await;
        let url = format!("{}/oauth/token", server.uri());
        let endpoint = Endpoint::new(url.parse().unwrap(), "https://api.example").unwrap();
        let client = TokenClient::builder(ClientCredentials::new("i d", "s:e%"))
            .endpoint(endpoint)
            .encoding(encoding)
            .client_auth(ClientAuth::Basic);
        client.build().unwrap().fetch().await.unwrap();
        let request = requests(&server).await.remove(0);
        // RFC 6749 §2.3.1: `i+d:s%3Ae%25`.
        assert_eq!(request.headers["authorization"], "Basic aStkOnMlM0FlJTI1");
        let body = String::from_utf8(request.body).unwrap();
        assert!(!body.contains("client_id") && !body.contains("client_secret"), "{body}");
        assert!(body.contains("client_credentials"), "{body}");
    }
}
