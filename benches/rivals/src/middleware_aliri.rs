//! `aliri_reqwest`, the middleware of `aliri_tokens`, and its floor. Both use reqwest-middleware
//! 0.4.

use std::hint::black_box;

use aliri_reqwest::AccessTokenMiddleware;
use async_trait::async_trait;
use http::Extensions;
use reqwest_04::{Client, Request, Response, ResponseBuilderExt as _};
use reqwest_middleware_04::{ClientBuilder, Middleware, Next, Result};
use tokio::runtime::Runtime;

use crate::{
    issuer::Issuer,
    rivals::{Rival as _, aliri::Aliri},
    support::{HOST, RESPONSE_BODY},
};

/// Returns a JSON response instead of sending the request.
struct Canned;

#[async_trait]
impl Middleware for Canned {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        let response = http::Response::builder().url(request.url().clone());
        let response = response.header("content-type", "application/json");
        Ok(response.body(RESPONSE_BODY).expect("a valid response").into())
    }
}

struct Nothing;

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

pub(crate) fn nothing(runtime: &Runtime) -> impl Fn(u32) {
    through(runtime, Nothing)
}

/// By default, it adds the token to every https request.
pub(crate) fn aliri<'a>(runtime: &'a Runtime, issuer: &Issuer) -> impl Fn(u32) + use<'a> {
    issuer.restore();
    let aliri = runtime.block_on(Aliri::start(issuer)).expect("a token");
    through(runtime, AccessTokenMiddleware::new(aliri.watcher()))
}

fn through(runtime: &Runtime, middleware: impl Middleware) -> impl Fn(u32) {
    let client = ClientBuilder::new(Client::new()).with(middleware);
    let client = client.with(Canned).build();
    let url = format!("https://{HOST}/api/projects/v1");
    move |calls| {
        runtime.block_on(async {
            for _ in 0..calls {
                let request = client.get(&url).header("accept", "application/json");
                black_box(request.send().await.expect("a response"));
            }
        });
    }
}
