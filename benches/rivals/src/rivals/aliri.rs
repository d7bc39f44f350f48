//! `aliri_tokens`: a background task publishes tokens to a watcher, from which callers borrow them.

use std::time::Duration;

use aliri_clock::DurationSecs;
use aliri_tokens::{
    AccessToken, IdToken, TokenLifetimeConfig, TokenWatcher, TokenWithLifetime,
    backoff::ErrorBackoffConfig, jitter::RandomEarlyJitter, sources::AsyncTokenSource,
};
use async_trait::async_trait;
use http::HeaderValue;

use super::{Rival, bearer, text_of};
use crate::issuer::{Failed, Issuer};

pub struct Aliri(TokenWatcher);

impl Aliri {
    /// Returns what its middleware is created from.
    pub fn watcher(&self) -> TokenWatcher {
        self.0.clone()
    }
}

impl Rival for Aliri {
    const NAME: &'static str = "aliri_tokens 0.3.2";
    const SETUP: &'static str =
        "In process: an `AsyncTokenSource` in `TokenWatcher::spawn_from_token_source`.";

    const STALE: Result<(Duration, Duration), &'static str> =
        Err("draws its refresh time at random from a whole minute");

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        // The jitter and backoff of the crate's own example.
        let watcher = TokenWatcher::spawn_from_token_source(
            Source(issuer.clone()),
            RandomEarlyJitter::new(DurationSecs(60)),
            ErrorBackoffConfig::default(),
        );
        watcher.await.map(Self).map_err(text_of)
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        // Its own middleware, `aliri_reqwest`, does not check the token's status either.
        bearer(self.0.token().access_token().as_str())
    }
}

struct Source(Issuer);

#[async_trait]
impl AsyncTokenSource for Source {
    type Error = Failed;

    async fn request_token(&mut self) -> Result<TokenWithLifetime, Failed> {
        let granted = self.0.request_token().await?;
        Ok(TokenLifetimeConfig::default().create_token(
            AccessToken::new(granted.token),
            None::<IdToken>,
            granted.lifetime.into(),
        ))
    }
}
