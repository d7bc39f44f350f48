//! What stands around the layer in a benchmark.

use async_trait::async_trait;
use http::Extensions;
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{Middleware, Next};

/// Stands for the network.
pub(crate) struct Canned(pub(crate) &'static str);

#[async_trait]
impl Middleware for Canned {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let answer = http::Response::builder().url(request.url().clone());
        let answer = answer.header("content-type", "application/json");
        Ok(answer.body(self.0).unwrap().into())
    }
}

/// The floor of a layer: one that does nothing.
pub(crate) struct Nothing;

#[async_trait]
impl Middleware for Nothing {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        next.run(request, extensions).await
    }
}
