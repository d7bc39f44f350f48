//! The main job: GraphQL and REST calls that carry a valid token, which this program never handles.
//!
//! `cargo run --example tour` runs on the embedded sandbox, with tokens that expire after 4
//! s. With `-- --live` it only reads from your tenant and makes two token requests. Set
//! `SITECORE_AUTHORING_URL`, `SITECORE_AUTH_CLIENT_ID` and `SITECORE_AUTH_CLIENT_SECRET`. For
//! another issuer, also set `SITECORE_AUTH_AUTHORITY` and `SITECORE_AUTH_AUDIENCE`.
mod support;
use std::{process::ExitCode, time::Duration};

use futures_util::future::try_join_all;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::json;
use sitecore_auth::{AuthMiddleware, Target, TokenCache};
use sitecore_sandbox::{Api, Sandbox};
use support::{Cloud, Kind, Result, graphql, json_of, names, timed};
use tokio::time::{Instant, sleep};

const SITES: &str = "{ sites { name } }";
const ITEM: &str = "query($w: ItemQueryInput!) { item(where: $w) { itemId path } }";
const CREATE: &str = "mutation($i: CreateItemInput!) { createItem(input: $i) { item { itemId } } }";

#[tokio::main]
async fn main() -> ExitCode {
    support::exit(run().await)
}

/// Wraps an existing client.
fn wrap(cloud: &Cloud, cache: &TokenCache) -> Result<ClientWithMiddleware> {
    let auth = AuthMiddleware::builder(cache.clone()).target(cloud.authoring()?);
    let deploy = cloud.at(Target::deploy(), Api::Deploy)?;
    Ok(auth.target(deploy).build()?.into_client(reqwest::Client::builder())?)
}

async fn run() -> Result<()> {
    let cloud = Cloud::from_args(Duration::from_secs(4)).await?;
    let url = cloud.authoring_url()?;
    let cache = TokenCache::new(cloud.tokens(Kind::Organization)?);
    let client = wrap(&cloud, &cache)?;
    let sites = timed("list sites", graphql(&client, &url, SITES, json!({}))).await?;
    println!("    sites: {}", names(&sites["sites"]));
    if let Some(sandbox) = &cloud.sandbox {
        create_item(&client, sandbox).await?;
        let projects = json_of(client.get(sandbox.url(Api::Deploy, "/api/projects/v1"))).await?;
        println!("projects in the Deploy API: {}", names(&projects));
    }

    let cold = TokenCache::new(cloud.tokens(Kind::Organization)?);
    let client_of_cold = wrap(&cloud, &cold)?;
    let calls = (0..200).map(|_| graphql(&client_of_cold, &url, SITES, json!({})));
    timed("200 concurrent calls with an empty cache", try_join_all(calls)).await?;
    println!("    token requests: {}", cold.status().token_requests());

    if let Some(sandbox) = cloud.sandbox {
        println!("calling with the first client for 11 s …");
        let (started, mut calls) = (Instant::now(), 0);
        while started.elapsed() < Duration::from_secs(11) {
            graphql(&client, &url, SITES, json!({})).await?;
            sleep(Duration::from_millis(50)).await;
            calls += 1;
        }
        let requests = cache.status().token_requests();
        println!("{calls} calls, across several token expiries");
        println!("    token requests of the first client: {requests}");
        let rejected = [Api::Token, Api::Authoring, Api::Deploy].map(|api| sandbox.rejections(api));
        println!("rejected calls in total: {}", rejected.iter().sum::<u64>());
    }
    Ok(())
}

async fn create_item(client: &ClientWithMiddleware, sandbox: &Sandbox) -> Result<()> {
    let url = sandbox.authoring_url();
    let home = json!({ "w": { "path": "/sitecore/content/acme/Home" } });
    let parent = graphql(client, &url, ITEM, home).await?["item"]["itemId"].take();
    let template = "a87a00b1-e6db-45ab-8b54-9fc06c7b9d2e";
    let item = json!({ "i": { "name": "Hello", "parent": parent, "templateId": template } });
    let created = timed("create an item", graphql(client, &url, CREATE, item)).await?;
    let id = json!({ "w": { "itemId": created["createItem"]["item"]["itemId"] } });
    let read = timed("read it back", graphql(client, &url, ITEM, id)).await?;
    println!("    path: {}", read["item"]["path"].as_str().unwrap_or_default());
    Ok(())
}
