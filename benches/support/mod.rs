//! What surrounds the middleware in a benchmark: a stand-in for the network, and a floor.

use async_trait::async_trait;
use http::Extensions;
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{Middleware, Next, Result};

pub(crate) const HOST: &str = "cm.example";

pub(crate) const RESPONSE_BODY: &str =
    r#"{"data":{"sites":[{"name":"acme"},{"name":"acme-campaigns"}]}}"#;

/// Returns a JSON response with this body instead of sending the request.
pub(crate) struct Canned(pub(crate) &'static str);

#[async_trait]
impl Middleware for Canned {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        let response = http::Response::builder().url(request.url().clone());
        let response = response.header("content-type", "application/json");
        Ok(response.body(self.0).expect("a valid response").into())
    }
}

/// The floor: a middleware that does nothing.
pub(crate) struct Nothing;

#[async_trait]
impl Middleware for Nothing {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        next.run(request, extensions).await
    }
}
