//! `cf-gears-toolkit-auth`: a background task keeps a client-credentials token, returned as text.

use std::time::Duration;

use http::HeaderValue;
use toolkit_auth::{OAuthClientConfig, SecretString, TokenProvider};
use url::Url;

use super::{Rival, bearer, text_of};
use crate::issuer::Issuer;

pub struct CfGears(TokenProvider);

impl Rival for CfGears {
    const NAME: &'static str = "cf-gears-toolkit-auth 0.8.3";
    const SETUP: &'static str =
        "Loopback endpoint: the `token_endpoint` in the config of a `TokenProvider`.";

    // A lifetime below its offset of 30 min is refreshed at half-time, less a jitter that can be as
    // long.
    const STALE: Result<(Duration, Duration), &'static str> =
        Err("draws its refresh time at random from half of a short lifetime");

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
        // Its own tower service builds the header from the same text in the same way.
        let token = self.0.get().await.map_err(text_of)?;
        bearer(token.expose())
    }
}
