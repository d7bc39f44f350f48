//! `cf-gears-toolkit-auth`: a background task keeps a client credentials token, which is handed out as text.

use std::time::Duration;

use http::HeaderValue;
use toolkit_auth::{OAuthClientConfig, SecretString, TokenProvider};
use url::Url;

use super::{Rival, bearer, text_of};
use crate::issuer::Issuer;

pub struct CfGears(TokenProvider);

impl Rival for CfGears {
    const NAME: &'static str = "cf-gears-toolkit-auth 0.8.3";
    const FED: &'static str =
        "By the loopback endpoint, as the `token_endpoint` of a `TokenProvider`'s config.";

    // A life below its offset of 30 min is renewed in its first half, and the jitter is as long as that.
    const STALE: Result<(Duration, Duration), &'static str> =
        Err("it draws the instant of its renewal from half of a short life");

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let config = OAuthClientConfig {
            token_endpoint: Some(Url::parse(&issuer.token_url()).map_err(text_of)?),
            client_id: "client".to_owned(),
            client_secret: SecretString::new("secret"),
            ..OAuthClientConfig::default()
        };
        TokenProvider::new(config).map(Self).map_err(text_of)
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        // Its own tower layer makes the header of the same text in the same way.
        let token = self.0.get().await.map_err(text_of)?;
        bearer(token.expose())
    }
}
