//! reqwest-retry around the middleware: it waits as long as the error says, and gives up if waiting
//! cannot help. `cargo run --example retry` runs on the embedded sandbox, whose issuer fails at
//! first.

use reqwest::redirect::Policy;
use reqwest_middleware::ClientBuilder;
use reqwest_retry::policies::ExponentialBackoff;
use sitecore_auth::*;
use sitecore_sandbox::{Api, Fault, Sandbox};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sandbox = Sandbox::builder().start().await?;
    sandbox.script(Api::Token, [503; 4].map(Fault::status));
    let client = sandbox.organization();
    let tokens = TokenClient::builder(ClientCredentials::new(client.id(), client.secret()))
        .endpoint(Endpoint::new(sandbox.token_url(), sandbox.audience())?);
    let auth = AuthMiddleware::builder(TokenCache::new(tokens.build()?))
        .target(Target::deploy().with_origin(sandbox.origin(Api::Deploy).clone())?)
        .build()?;
    let http = reqwest::Client::builder().redirect(auth.redirect_policy(Policy::default()));
    let backoff = ExponentialBackoff::builder().build_with_max_retries(3);
    let client = ClientBuilder::new(http.no_proxy().build()?)
        // Added first, so that each attempt passes through the middleware below and gets a current
        // token.
        .with(HonourRetryAfter::new(backoff).into_middleware())
        .with(auth)
        .build();
    let response = client.get(sandbox.url(Api::Deploy, "/api/projects/v1")).send().await?;
    println!("{}; tokens granted: {}", response.status(), sandbox.tokens_granted());
    Ok(())
}
