//! The year of this project's cache and middleware.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{
    Extensions,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{ClientBuilder, Middleware, Next, Result};
use sitecore_auth::{AuthMiddleware, Error, ErrorKind, Target, Token, TokenCache, source_fn};

use super::world::{self, CHALLENGE, DAY, GOOD, REJECTING, World, WorldClock, Year};

pub(super) async fn year(world: Arc<World>) -> Year {
    let issuer = Arc::clone(&world);
    let source = source_fn(move |_| {
        let issuer = Arc::clone(&issuer);
        async move {
            let token = issuer.request_token().await;
            let token = token.map_err(|error| Error::new(ErrorKind::Unavailable, error))?;
            Token::bearer(token, Duration::from_secs(DAY))
        }
    });
    let clock = WorldClock(Arc::clone(&world));
    let cache = TokenCache::builder(source).clock(clock).build().expect("a valid policy");
    let target = |url: &str| Target::origin(url.parse().expect("a URL")).expect("a target");
    let auth = AuthMiddleware::builder(cache).target(target(GOOD)).target(target(REJECTING));
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(auth.build().expect("a middleware"))
        .with(Apis(Arc::clone(&world)))
        .build();
    world::run(&world, async |url: &str| {
        client.get(url).send().await.is_ok_and(|response| response.status() == 200)
    })
    .await
}

/// Responds in place of both APIs.
struct Apis(Arc<World>);

#[async_trait]
impl Middleware for Apis {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        let header = request.headers().get(AUTHORIZATION);
        let header = header.and_then(|value| value.to_str().ok());
        let mut response = http::Response::builder().url(request.url().clone());
        if !self.0.accepts(request.url().as_str(), header.unwrap_or_default()) {
            response = response.status(401).header(WWW_AUTHENTICATE, CHALLENGE);
        }
        Ok(response.body("").expect("a valid response").into())
    }
}
