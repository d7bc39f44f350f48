//! `middle`: a background task keeps the header of a client-credentials token fresh.

use std::time::Duration;

use http::HeaderValue;
use middle::{Authorizer as _, BasicClientCredentialAuthorizer};
use url::Url;

use super::{Rival, text_of};
use crate::issuer::Issuer;

pub struct Middle(BasicClientCredentialAuthorizer);

impl Rival for Middle {
    const NAME: &'static str = "middle 0.5.0";
    const SETUP: &'static str =
        "Loopback endpoint: the token URL of `BasicClientCredentialAuthorizer::basic_builder`.";

    // A lifetime below its tolerance of 30 s is refreshed at half-time.
    const STALE: Result<(Duration, Duration), &'static str> =
        Ok((Duration::from_millis(20_000), Duration::from_millis(9_800)));

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let token_url = Url::parse(&issuer.token_url()).map_err(text_of)?;
        let builder = BasicClientCredentialAuthorizer::basic_builder("client", "secret", token_url);
        builder.build().await.map(Self).map_err(text_of)
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        let header = self.0.authorization_header().map_err(text_of)?;
        Ok(HeaderValue::clone(&header))
    }
}
