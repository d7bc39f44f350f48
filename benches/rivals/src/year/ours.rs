//! The year of this project's cache and middleware.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{
    Extensions,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{ClientBuilder, Middleware, Next, Result};
use sitecore_auth::{AuthMiddleware, Error, ErrorKind, Target, Token, TokenCache, source_fn};

use super::world::{self, AUTHORING, CHALLENGE, DAY, GOOD, REJECTING, World, WorldClock, Year};

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
    let authoring = Target::authoring("authoring.example").expect("a target");
    let targets = [target(GOOD), target(REJECTING), authoring];
    let auth = AuthMiddleware::builder(cache).targets(targets);
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(auth.build().expect("a middleware"))
        .with(Apis(Arc::clone(&world)))
        .build();
    world::run(&world, async |url: &str| {
        client.get(url).send().await.is_ok_and(|response| response.status() == 200)
    })
    .await
}

/// What the Authoring API returns for a token that it rejects.
const GRAPHQL_REJECTION: &str =
    r#"{"errors":[{"message":"","extensions":{"code":"AUTH_NOT_AUTHENTICATED"}}]}"#;

/// Responds in place of the APIs.
struct Apis(Arc<World>);

#[async_trait]
impl Middleware for Apis {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        let header = request.headers().get(AUTHORIZATION);
        let header = header.and_then(|value| value.to_str().ok());
        let response = http::Response::builder().url(request.url().clone());
        let is_accepted = self.0.accepts(request.url().as_str(), header.unwrap_or_default());
        let response = if is_accepted {
            response.body("")
        } else if request.url().as_str() == AUTHORING {
            let response = response.status(500).header(CONTENT_TYPE, "application/json");
            response.body(GRAPHQL_REJECTION)
        } else {
            response.status(401).header(WWW_AUTHENTICATE, CHALLENGE).body("")
        };
        Ok(response.expect("a valid response").into())
    }
}
