//! Experience Edge administration: settings, cache, webhooks, and keys for the Delivery API.
//! `cargo run --example edge`. With `-- --live` it only reads, with an Edge administration client.
mod support;
use std::{process::ExitCode, time::Duration};

use reqwest_middleware::ClientBuilder;
use serde_json::json;
use sitecore_auth::{AuthMiddleware, Target, TokenCache, edge};
use sitecore_sandbox::Api;
use support::{Cloud, Kind, Result, json_of};

#[tokio::main]
async fn main() -> ExitCode {
    support::exit(run().await)
}

async fn run() -> Result<()> {
    let cloud = Cloud::from_args(Duration::from_secs(3600)).await?;
    let cache = TokenCache::new(cloud.tokens(Kind::Edge)?);
    let target = cloud.at(Target::edge_admin(), Api::Edge)?;
    let auth = AuthMiddleware::builder(cache).target(target).build()?;
    let client = ClientBuilder::new(cloud.http()?).with(auth).build();
    let url = |path: &str| cloud.url(Api::Edge, path);

    let settings = json_of(client.get(url("/api/admin/v1/settings")?)).await?;
    println!("content is cached for {}", settings["contentcachettl"]);
    let Some(sandbox) = &cloud.sandbox else {
        return Ok(());
    };

    let patch = json!([{ "op": "replace", "path": "/contentcachettl", "value": "00:15:00" }]);
    let patched = client.patch(url("/api/admin/v1/settings")?).json(&patch).send().await?;
    let cleared = client.delete(url("/api/admin/v1/cache")?).send().await?;
    println!("settings: {}, cache: {}", patched.status(), cleared.status());
    let hook = json!({ "label": "rebuild", "uri": "https://build.example/hook", "method": "POST" });
    let hook = json_of(client.post(url("/api/admin/v1/webhooks")?).json(&hook)).await?;
    println!("webhook {} calls {}", hook["id"], hook["uri"]);

    // A key is valid until it is revoked.
    let keys =
        edge::TokenApi::new(client.clone()).with_origin(sandbox.origin(Api::Edge).clone())?;
    let _key = keys.create_key("nightly index").await?;
    for key in keys.list_keys(Some("nightly index")).await? {
        println!("revoking key {:?}", key.label);
        keys.revoke_key(&key.hash).await?;
    }
    println!("keys left: {}", keys.list_keys(None).await?.len());
    Ok(())
}
