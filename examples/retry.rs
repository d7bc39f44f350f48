//! A retry around the layer, which waits as long as the layer says and gives up where time cannot help.
//! `cargo run --example retry` runs on the embedded sandbox, whose issuer is in trouble at first.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use reqwest_middleware::{ClientBuilder, Error};
use reqwest_retry::{
    DefaultRetryableStrategy, RetryDecision, RetryPolicy, RetryTransientMiddleware, Retryable,
    RetryableStrategy, policies::ExponentialBackoff,
};
use sitecore_auth::*;
use sitecore_sandbox::{Api, Fault, Sandbox};

/// Strategy and policy in one: what the layer says of an attempt lengthens the pause before the next.
/// reqwest-retry itself takes every error of a middleware as fatal.
///
/// The two meet here, and so calls at the same time see each other's wait: it is the same one, the cache's.
#[derive(Clone)]
struct AsTheLayerSays {
    backoff: ExponentialBackoff,
    wait: Arc<Mutex<Duration>>,
}

impl RetryableStrategy for AsTheLayerSays {
    fn handle(&self, result: &reqwest_middleware::Result<reqwest::Response>) -> Option<Retryable> {
        let Err(Error::Middleware(error)) = result else {
            return DefaultRetryableStrategy.handle(result);
        };
        let auth = error.downcast_ref::<sitecore_auth::Error>()?;
        println!("{auth}");
        let wait = auth.retry_after().unwrap_or_default();
        *self.wait.lock().unwrap() = wait;
        let worth_it = auth.is_transient() && wait < Duration::from_secs(60);
        worth_it.then_some(Retryable::Transient)
    }
}

impl RetryPolicy for AsTheLayerSays {
    fn should_retry(&self, begun: SystemTime, retries: u32) -> RetryDecision {
        let wait = std::mem::take(&mut *self.wait.lock().unwrap());
        let decision = self.backoff.should_retry(begun, retries);
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
    let retry = AsTheLayerSays {
        backoff: ExponentialBackoff::builder().build_with_max_retries(3),
        wait: Arc::default(),
    };
    let http = reqwest::Client::builder().redirect(redirect_policy()).no_proxy();
    let client = ClientBuilder::new(http.build()?)
        // The first is the outermost: each attempt passes the layer, and has a fresh header.
        .with(RetryTransientMiddleware::new_with_policy_and_strategy(retry.clone(), retry))
        .with(auth.build()?)
        .build();
    let answer = client.get(sandbox.url(Api::Deploy, "/api/projects/v1")).send().await?;
    println!("{}; tokens granted: {}", answer.status(), sandbox.tokens_granted());
    Ok(())
}
