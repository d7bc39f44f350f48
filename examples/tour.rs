//! What the middleware does beyond the quickstart: mutations, calls to a second API, and 200 calls
//! at once with an empty cache. `cargo run --example tour`, on the embedded sandbox.

use std::{error::Error, time::Duration};

use futures_util::future::try_join_all;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient};
use sitecore_sandbox::{Api, Sandbox};
use tokio::time::{Instant, sleep};
use url::Url;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const SITES: &str = "{ sites { name } }";
const ITEM: &str = "query($w: ItemQueryInput!) { item(where: $w) { itemId path } }";
const CREATE: &str = "mutation($i: CreateItemInput!) { createItem(input: $i) { item { itemId } } }";

#[tokio::main]
async fn main() -> Result<()> {
    let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(4)).start().await?;
    let url = sandbox.authoring_url();
    let (cache, client) = client(&sandbox)?;
    create_item(&client, &url).await?;
    let projects = client.get(sandbox.url(Api::Deploy, "/api/projects/v1")).send().await?;
    let projects: Value = projects.error_for_status()?.json().await?;
    println!("projects in the Deploy API: {}", projects[0]["name"]);

    many_calls_with_an_empty_cache(&sandbox).await?;

    println!("calling for 11 s …");
    let (started, mut calls) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(11) {
        graphql(&client, &url, SITES, json!({})).await?;
        sleep(Duration::from_millis(50)).await;
        calls += 1;
    }
    let requests = cache.status().token_requests();
    println!("{calls} calls, across several token expiries; token requests: {requests}");
    let rejected = [Api::Token, Api::Authoring, Api::Deploy].map(|api| sandbox.rejections(api));
    println!("rejected calls in total: {}", rejected.iter().sum::<u64>());
    Ok(())
}

/// A client for two APIs that accept the same token, and the cache behind it.
fn client(sandbox: &Sandbox) -> Result<(TokenCache, ClientWithMiddleware)> {
    let credentials =
        ClientCredentials::new(sandbox.organization().id(), sandbox.organization().secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let cache = TokenCache::new(TokenClient::builder(credentials).endpoint(endpoint).build()?);
    let auth = AuthMiddleware::builder(cache.clone())
        .target(Target::authoring(sandbox.authoring_url())?)
        .target(Target::deploy().with_origin(sandbox.origin(Api::Deploy).clone())?)
        .build()?;
    Ok((cache, auth.into_client(reqwest::Client::builder())?))
}

async fn create_item(client: &ClientWithMiddleware, url: &Url) -> Result<()> {
    let home = json!({ "w": { "path": "/sitecore/content/acme/Home" } });
    let parent = graphql(client, url, ITEM, home).await?["item"]["itemId"].take();
    let template = "a87a00b1-e6db-45ab-8b54-9fc06c7b9d2e";
    let item = json!({ "i": { "name": "Hello", "parent": parent, "templateId": template } });
    let created = graphql(client, url, CREATE, item).await?;
    let id = json!({ "w": { "itemId": created["createItem"]["item"]["itemId"] } });
    let read = graphql(client, url, ITEM, id).await?;
    println!("created {}", read["item"]["path"].as_str().unwrap_or_default());
    Ok(())
}

/// All calls wait for the same token request.
async fn many_calls_with_an_empty_cache(sandbox: &Sandbox) -> Result<()> {
    let url = sandbox.authoring_url();
    let (cache, client) = client(sandbox)?;
    let started = Instant::now();
    try_join_all((0..200).map(|_| graphql(&client, &url, SITES, json!({})))).await?;
    let took = started.elapsed();
    println!("200 concurrent calls with an empty cache took {took:.1?}");
    println!("    token requests: {}", cache.status().token_requests());
    Ok(())
}

/// Makes a GraphQL call. A response with errors is a failure, even with status 200.
async fn graphql(
    client: &ClientWithMiddleware,
    url: &Url,
    query: &str,
    variables: Value,
) -> Result<Value> {
    let call = client.post(url.clone()).json(&json!({ "query": query, "variables": variables }));
    let mut response: Value = call.send().await?.error_for_status()?.json().await?;
    match response["errors"].take() {
        Value::Null => Ok(response["data"].take()),
        errors => Err(format!("the API returned errors: {errors}").into()),
    }
}
