//! This project's own cache.

use std::time::Duration;

use http::HeaderValue;
use sitecore_auth::{Error, ErrorKind, RefreshPolicy, Token, TokenCache, TokenSource, source_fn};

use super::{Rival, text_of};
use crate::issuer::Issuer;

pub struct Ours(TokenCache);

/// The same cache with one token request per refresh.
pub struct OneAttempt(TokenCache);

impl Rival for OneAttempt {
    const NAME: &'static str = Ours::NAME;
    const SETUP: &'static str = Ours::SETUP;
    const STALE: Result<(Duration, Duration), &'static str> = Err("not measured");

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let mut policy = RefreshPolicy::default();
        policy.attempts_per_refresh = 1;
        let cache = TokenCache::builder(source(issuer)).policy(policy).build();
        cache.map(Self).map_err(text_of)
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        let token = self.0.token().await.map_err(text_of)?;
        Ok(token.header().1.clone())
    }
}

impl Rival for Ours {
    const NAME: &'static str = "sitecore-auth 0.2.0";
    const SETUP: &'static str = "In process: a closure is the cache's source, by `source_fn`.";

    // Stale after 10.5 to 12 s, and usable until 13.5 s.
    const STALE: Result<(Duration, Duration), &'static str> =
        Ok((Duration::from_millis(15_000), Duration::from_millis(12_050)));

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        Ok(Self(TokenCache::new(source(issuer))))
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        let token = self.0.token().await.map_err(text_of)?;
        Ok(token.header().1.clone())
    }
}

fn source(issuer: &Issuer) -> impl TokenSource + use<> {
    let issuer = issuer.clone();
    source_fn(move |_| {
        let issuer = issuer.clone();
        async move {
            // `TokenClient` reports a 503 as this kind.
            let failed = |failed| Error::new(ErrorKind::Unavailable, failed);
            let granted = issuer.request_token().await.map_err(failed)?;
            Token::bearer(granted.token, granted.lifetime)
        }
    })
}
