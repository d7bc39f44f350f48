//! This project's own cache.

use std::time::Duration;

use http::HeaderValue;
use sitecore_auth::{Error, ErrorKind, RefreshPolicy, Token, TokenCache, TokenSource, source_fn};

use super::{Rival, text_of};
use crate::issuer::Issuer;

pub struct Ours(TokenCache);

/// The same with one grant per refresh.
pub struct OneGrant(TokenCache);

impl Rival for OneGrant {
    const NAME: &'static str = Ours::NAME;
    const FED: &'static str = Ours::FED;
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
    const NAME: &'static str = "sitecore-auth 0.1.0";
    const FED: &'static str = "In process: a closure as the cache's source, by `source_fn`.";

    // Stale from 10.5 to 12 s on, usable until 13.5 s.
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
    source_fn(move |_replacing| {
        let issuer = issuer.clone();
        async move {
            // The kind that its own client gives to an answer 503.
            let failed = |failed| Error::new(ErrorKind::Unavailable, failed);
            let granted = issuer.grant().await.map_err(failed)?;
            Token::bearer(granted.token, granted.life)
        }
    })
}
