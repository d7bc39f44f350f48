//! Experience Edge administration: settings, cache, webhooks, and keys for the Delivery API.
//!
//! `cargo run --example edge` runs on the embedded sandbox. With `-- --live` it only reads, with
//! the Edge administration client in `SITECORE_EDGE_CLIENT_ID` and `SITECORE_EDGE_CLIENT_SECRET`.

use std::{env, error::Error};

use chrono::Utc;
use reqwest_middleware::{ClientWithMiddleware, RequestBuilder};
use serde_json::{Value, json};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient, edge::TokenApi,
};
use sitecore_sandbox::{Api, Sandbox};
use url::Url;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> Result<()> {
    let argument = env::args().nth(1);
    if argument.as_deref().is_some_and(|argument| argument != "--live") {
        return Err("unknown argument; expected --live or nothing".into());
    }
    if argument.is_some() {
        // The variable is for a sandbox that runs as a program.
        let origin = env::var("SITECORE_EDGE_URL");
        let origin = Url::parse(origin.as_deref().unwrap_or("https://edge.sitecorecloud.io"))?;
        let credentials = ClientCredentials::from_env_prefix("SITECORE_EDGE")?;
        let client = client(credentials, Endpoint::from_env()?, &origin)?;
        return settings(&client, &origin).await;
    }

    let sandbox = Sandbox::start().await?;
    let origin = sandbox.origin(Api::Edge);
    let edge = sandbox.edge_administration();
    let credentials = ClientCredentials::new(edge.id(), edge.secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let client = client(credentials, endpoint, origin)?;
    settings(&client, origin).await?;
    change(&client, origin).await?;
    keys(&client, origin).await
}

fn client(
    credentials: ClientCredentials,
    endpoint: Endpoint,
    origin: &Url,
) -> Result<ClientWithMiddleware> {
    let cache = TokenCache::new(TokenClient::builder(credentials).endpoint(endpoint).build()?);
    let target = Target::edge_admin().with_origin(origin.clone())?;
    let auth = AuthMiddleware::builder(cache).target(target).build()?;
    Ok(auth.into_client(reqwest::Client::builder())?)
}

async fn settings(client: &ClientWithMiddleware, origin: &Url) -> Result<()> {
    let settings = json_of(client.get(origin.join("/api/admin/v1/settings")?)).await?;
    println!("content is cached for {}", settings["contentCacheTtl"]);
    Ok(())
}

async fn change(client: &ClientWithMiddleware, origin: &Url) -> Result<()> {
    let patch = json!([{ "op": "replace", "path": "/contentcachettl", "value": "00:15:00" }]);
    let patched = client.patch(origin.join("/api/admin/v1/settings")?).body(patch.to_string());
    let patched = patched.header("content-type", "application/json-patch+json").send().await?;
    let patched = patched.error_for_status()?;
    let cleared = client.delete(origin.join("/api/admin/v1/cache")?).send().await?;
    let cleared = cleared.error_for_status()?;
    println!("settings: {}, cache: {}", patched.status(), cleared.status());
    let hook = json!({ "label": "rebuild", "uri": "https://build.example/hook", "method": "POST" });
    let hook = json_of(client.post(origin.join("/api/admin/v1/webhooks")?).json(&hook)).await?;
    println!("webhook {} calls {}", hook["id"], hook["uri"]);
    Ok(())
}

/// Creates a key, which is valid until it is revoked, and revokes it.
async fn keys(client: &ClientWithMiddleware, origin: &Url) -> Result<()> {
    let api = TokenApi::new(client.clone()).with_origin(origin.clone())?;
    // Labels may repeat, so this one contains the time.
    let label = format!("nightly index {}", Utc::now().to_rfc3339());
    let _key = api.create_key(&label).await?;
    // The list also contains keys whose labels contain this one.
    let keys = api.list_keys(Some(&label)).await?;
    for key in keys.iter().filter(|key| key.label == label) {
        println!("revoking the key created at {}", key.created);
        api.revoke_key(&key.hash).await?;
    }
    println!("keys left: {}", api.list_keys(None).await?.len());
    Ok(())
}

async fn json_of(call: RequestBuilder) -> Result<Value> {
    Ok(call.send().await?.error_for_status()?.json().await?)
}
