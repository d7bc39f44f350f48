//! What a token request contains.

use sitecore_token::{ClientCredentials, Encoding, Endpoint, TokenClient};
use url::form_urlencoded;

use super::granting;
use crate::support::{client_of, requests};

#[tokio::test]
async fn every_character_of_a_secret_arrives() {
    let secret = "100% + a&b=c:d/e ü \"quoted\" \\ 漢";
    for encoding in [Encoding::Form, Encoding::Json] {
        let server = granting().await;
        let endpoint = Endpoint::new(server.uri().parse().unwrap(), "https://api.example").unwrap();
        // With line endings, as read from a file.
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
    let endpoint = Endpoint::new(server.uri().parse().unwrap(), "a").unwrap().without_audience();
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
