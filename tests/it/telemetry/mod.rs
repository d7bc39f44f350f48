//! Telemetry of the cache, the middleware and the store.

mod documented;
mod logs;
mod metrics;

use async_trait::async_trait;
use http::Extensions;
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use sitecore_auth::{AuthMiddleware, Target, TokenCache};
use tracing::{Instrument as _, info_span};

const COOLDOWN_UNTIL: &str = "sitecore_auth_cooldown_until_timestamp_seconds";

/// Returns the value of a gauge, in seconds since the start of the test.
fn gauge(metrics: &str, name: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.expect("a gauge").parse::<f64>().unwrap() - 1_800_100_000.0
}

/// A client for `https://api.example/`, with [`Spans`] around our middleware and [`Canned`] inside.
fn client_of(cache: TokenCache) -> ClientWithMiddleware {
    let target = Target::origin("https://api.example".parse().unwrap()).unwrap();
    let auth = AuthMiddleware::builder(cache).target(target);
    ClientBuilder::new(reqwest::Client::new())
        .with(Spans)
        .with(auth.build().unwrap())
        .with(Canned)
        .build()
}

/// Runs the inner middleware in a span, as tracing middleware does.
struct Spans;

#[async_trait]
impl Middleware for Spans {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let response = next.run(request, extensions);
        response.instrument(info_span!("of_the_caller")).await
    }
}

/// Replaces the network. Rejects `token-1`, except on the paths that have their own response.
struct Canned;

#[async_trait]
impl Middleware for Canned {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let token = request.headers().get("authorization");
        let is_first = token.is_some_and(|token| token == "Bearer token-1");
        let (status, from) = match request.url().path() {
            "/forbidden" => (403, request.url().clone()),
            "/elsewhere" => (200, "https://other.example/".parse().unwrap()),
            "/rejected" => (401, request.url().clone()),
            _ => (if is_first { 401 } else { 200 }, request.url().clone()),
        };
        let response = http::Response::builder().status(status).url(from);
        Ok(response.body("").unwrap().into())
    }
}
