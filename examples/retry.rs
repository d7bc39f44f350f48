//! reqwest-retry around the middleware: it waits as long as the error says, and gives up if waiting
//! cannot help. `cargo run --example retry` runs on the embedded sandbox, whose issuer fails at
//! first.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use reqwest_middleware::{ClientBuilder, Error};
use reqwest_retry::{
    DefaultRetryableStrategy, RetryDecision, RetryPolicy, RetryTransientMiddleware, Retryable,
    RetryableStrategy, policies::ExponentialBackoff,
};
use sitecore_auth::*;
use sitecore_sandbox::{Api, Fault, Sandbox};

/// A strategy and a policy in one, because the wait in an error of ours must extend the pause
/// before the next attempt. By default, reqwest-retry treats every error of a middleware as fatal.
///
/// Concurrent calls share the wait, which is right because it comes from the one cache.
#[derive(Clone)]
struct HonourRetryAfter {
    backoff: ExponentialBackoff,
    wait: Arc<Mutex<Duration>>,
}

impl RetryableStrategy for HonourRetryAfter {
    fn handle(&self, result: &reqwest_middleware::Result<reqwest::Response>) -> Option<Retryable> {
        let Err(Error::Middleware(error)) = result else {
            return DefaultRetryableStrategy.handle(result);
        };
        let auth = error.downcast_ref::<sitecore_auth::Error>()?;
        println!("{auth}");
        let wait = auth.retry_after().unwrap_or_default();
        *self.wait.lock().unwrap() = wait;
        let is_worth_it = auth.is_transient() && wait < Duration::from_secs(60);
        is_worth_it.then_some(Retryable::Transient)
    }
}

impl RetryPolicy for HonourRetryAfter {
    fn should_retry(&self, started: SystemTime, retries: u32) -> RetryDecision {
        let wait = std::mem::take(&mut *self.wait.lock().unwrap());
        let decision = self.backoff.should_retry(started, retries);
        let RetryDecision::Retry { execute_after } = decision else {
            return decision;
        };
        let execute_after = execute_after + wait;
        RetryDecision::Retry { execute_after }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sandbox = Sandbox::builder().start().await?;
    sandbox.script(Api::Token, [503; 4].map(Fault::status));
    let client = sandbox.organization();
    let tokens = TokenClient::builder(ClientCredentials::new(client.id(), client.secret()))
        .endpoint(Endpoint::new(sandbox.token_url(), sandbox.audience())?);
    let auth = AuthMiddleware::builder(TokenCache::new(tokens.build()?))
        .target(Target::deploy().with_origin(sandbox.origin(Api::Deploy).clone())?);
    let retry = HonourRetryAfter {
        backoff: ExponentialBackoff::builder().build_with_max_retries(3),
        wait: Arc::default(),
    };
    let http = reqwest::Client::builder().redirect(redirect_policy()).no_proxy();
    let client = ClientBuilder::new(http.build()?)
        // Added first, so that each attempt passes through the middleware below and gets a current
        // token.
        .with(RetryTransientMiddleware::new_with_policy_and_strategy(retry.clone(), retry))
        .with(auth.build()?)
        .build();
    let response = client.get(sandbox.url(Api::Deploy, "/api/projects/v1")).send().await?;
    println!("{}; tokens granted: {}", response.status(), sandbox.tokens_granted());
    Ok(())
}
