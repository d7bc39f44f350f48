//! The main use case: GraphQL calls that carry a valid token, which this program never handles.
//!
//! `cargo run -p quickstart` runs on the embedded sandbox, whose tokens last 4 s, and prints what
//! happens when. With `-- --live` it makes one call to your tenant. Set `SITECORE_AUTHORING_URL`
//! (the URL of your CM's GraphQL endpoint), `SITECORE_AUTH_CLIENT_ID` and
//! `SITECORE_AUTH_CLIENT_SECRET`.

use std::{env, error::Error, time::Duration};

use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Endpoint, Freshness, Target, TokenCache, TokenClient,
};
use sitecore_sandbox::{Api, Sandbox};
use tokio::time::{Instant, sleep};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Lists the names of the sites.
async fn sites(client: &ClientWithMiddleware, url: &str) -> Result<String> {
    let query = json!({ "query": "{ sites { name } }" });
    let response = client.post(url).json(&query).send().await?.error_for_status()?;
    let response: Value = response.json().await?;
    let sites = response["data"]["sites"].as_array().ok_or_else(|| response.to_string())?;
    let names: Vec<_> = sites.iter().filter_map(|site| site["name"].as_str()).collect();
    Ok(names.join(", "))
}

#[tokio::main]
async fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        None => on_the_sandbox().await,
        Some("--live") => live().await,
        Some(other) => Err(format!("unknown argument {other}; expected --live or nothing").into()),
    }
}

async fn live() -> Result<()> {
    let url = env::var("SITECORE_AUTHORING_URL").map_err(|_| {
        "SITECORE_AUTHORING_URL is not set (expected, for example, https://<host>/sitecore/api/authoring/graphql/v1/)"
    })?;
    let auth = AuthMiddleware::from_env([Target::authoring(&url)?])?;
    let client = auth.into_client(reqwest::Client::builder())?;
    println!("sites: {}", sites(&client, &url).await?);
    Ok(())
}

async fn on_the_sandbox() -> Result<()> {
    let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(4)).start().await?;
    let url = sandbox.authoring_url().to_string();
    // `AuthMiddleware::from_env` does the same with the credentials and the issuer in the
    // environment.
    let credentials =
        ClientCredentials::new(sandbox.environment().id(), sandbox.environment().secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let cache = TokenCache::new(TokenClient::builder(credentials).endpoint(endpoint).build()?);
    let auth = AuthMiddleware::builder(cache.clone()).target(Target::authoring(&url)?).build()?;
    let client = auth.into_client(reqwest::Client::builder())?;

    println!("tokens last 4 s here; one call every 50 ms for 10 s:");
    let (started, mut calls, mut seen) = (Instant::now(), 0, None);
    let print = |event: String| println!("{:5.1} s  {event}", started.elapsed().as_secs_f32());
    while started.elapsed() < Duration::from_secs(10) {
        let called = Instant::now();
        let names = sites(&client, &url).await?;
        let (status, took) = (cache.status(), called.elapsed());
        let now = status.fingerprint().zip(status.freshness());
        match now {
            _ if calls == 0 => {
                print(format!("the first call waited for a token: {took:.0?}; sites: {names}"));
            }
            _ if now == seen => {}
            Some((token, Freshness::Fresh)) => {
                print(format!("calls use the new token {token}; this one took {took:.0?}"));
            }
            Some((token, _)) => {
                print(format!("token {token} is stale; calls still use it during the refresh"));
            }
            None => {}
        }
        (seen, calls) = (now, calls + 1);
        sleep(Duration::from_millis(50)).await;
    }
    println!("calls: {calls}, token requests: {}", cache.status().token_requests());
    println!("rejected calls: {}", sandbox.rejections(Api::Authoring));
    Ok(())
}
