//! Experience Edge administration: settings, cache, webhooks, and keys for the Delivery API.
//! `cargo run --example edge`. With `-- --live` it only reads, with an Edge administration client.
mod support;
use std::{process::ExitCode, time::Duration};

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
    let client = auth.into_client(reqwest::Client::builder())?;
    let url = |path: &str| cloud.url(Api::Edge, path);

    let settings = json_of(client.get(url("/api/admin/v1/settings")?)).await?;
    println!("content is cached for {}", settings["contentCacheTtl"]);
    let Some(sandbox) = &cloud.sandbox else {
        return Ok(());
    };

    let patch = json!([{ "op": "replace", "path": "/contentcachettl", "value": "00:15:00" }]);
    let patched = client.patch(url("/api/admin/v1/settings")?).body(patch.to_string());
    let patched = patched.header("content-type", "application/json-patch+json").send().await?;
    let cleared = client.delete(url("/api/admin/v1/cache")?).send().await?;
    println!("settings: {}, cache: {}", patched.status(), cleared.status());
    let hook = json!({ "label": "rebuild", "uri": "https://build.example/hook", "method": "POST" });
    let hook = json_of(client.post(url("/api/admin/v1/webhooks")?).json(&hook)).await?;
    println!("webhook {} calls {}", hook["id"], hook["uri"]);

    // A key is valid until it is revoked.
    let keys =
        edge::TokenApi::new(client.clone()).with_origin(sandbox.origin(Api::Edge).clone())?;
    // Another key's label may contain this one, so the label alone does not identify the key.
    let label = format!("nightly index {}", std::process::id());
    let _key = keys.create_key(&label).await?;
    let mut mine = keys.list_keys(Some(&label)).await?;
    mine.retain(|key| key.label == label);
    let [mine] = &mine[..] else { return Err("the label is not unique".into()) };
    println!("revoking the key created at {}", mine.created);
    keys.revoke_key(&mine.hash).await?;
    println!("keys left: {}", keys.list_keys(None).await?.len());
    Ok(())
}
