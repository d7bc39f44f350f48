//! The Deploy API: list all environments page by page, then create, start and watch a deployment.
//!
//! `cargo run --example deploy` runs on the embedded sandbox. With `-- --live` it only reads, with
//! the organization automation client in `SITECORE_AUTH_CLIENT_ID` and
//! `SITECORE_AUTH_CLIENT_SECRET`.

use std::{env, error::Error, time::Duration};

use reqwest_middleware::{ClientWithMiddleware, RequestBuilder};
use serde_json::Value;
use sitecore_auth::{AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient};
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
        let origin = env::var("SITECORE_DEPLOY_URL");
        let origin = origin.as_deref().unwrap_or("https://xmclouddeploy-api.sitecorecloud.io");
        let origin = Url::parse(origin)?;
        let auth = AuthMiddleware::from_env([Target::deploy().with_origin(origin.clone())?])?;
        let client = auth.into_client(reqwest::Client::builder())?;
        environments(&client, &origin).await?;
        return Ok(());
    }

    let sandbox = Sandbox::start().await?;
    let origin = sandbox.origin(Api::Deploy).clone();
    let credentials =
        ClientCredentials::new(sandbox.organization().id(), sandbox.organization().secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let cache = TokenCache::new(TokenClient::builder(credentials).endpoint(endpoint).build()?);
    let target = Target::deploy().with_origin(origin.clone())?;
    let auth = AuthMiddleware::builder(cache).target(target).build()?;
    let client = auth.into_client(reqwest::Client::builder())?;
    let environments = environments(&client, &origin).await?;
    let test = environments.iter().find(|(name, _)| name == "test");
    let (_, id) = test.ok_or("there is no environment `test`")?;
    deploy(&client, &origin, id).await
}

/// Returns the names and ids of all environments.
async fn environments(
    client: &ClientWithMiddleware,
    origin: &Url,
) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for page in 1.. {
        // One entry per page, to show paging. The maximum is 50.
        let path = format!("/api/environments/v2?pageNumber={page}&pageSize=1");
        let response = json_of(client.get(origin.join(&path)?)).await?;
        let entries = response["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        if entries.is_empty() {
            break;
        }
        for environment in entries {
            println!("{} at {}", environment["name"], environment["host"]);
            let text = |member: &str| environment[member].as_str().unwrap_or_default().to_owned();
            all.push((text("name"), text("id")));
        }
    }
    Ok(all)
}

async fn deploy(client: &ClientWithMiddleware, origin: &Url, environment: &str) -> Result<()> {
    let path = format!("/api/environments/v1/{environment}/deployments");
    let created = json_of(client.post(origin.join(&path)?)).await?;
    let id = created["id"].as_str().ok_or("a deployment without an id")?;
    let path = format!("/api/deployments/v1/{id}");
    let start = client.post(origin.join(&format!("{path}/deploy"))?);
    start.send().await?.error_for_status()?;
    loop {
        let deployment = json_of(client.get(origin.join(&path)?)).await?;
        // 0: not started, 1: in progress, 2: completed, 3: failed, 4: skipped.
        match deployment["calculatedStatus"].as_u64() {
            Some(0) => println!("deployment: not started"),
            Some(1) => println!("deployment: in progress"),
            Some(2) => break println!("deployment: completed"),
            state => return Err(format!("the deployment ended in state {state:?}").into()),
        }
        // A real deployment takes minutes. Ask every 10 s or so, and set a limit.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn json_of(call: RequestBuilder) -> Result<Value> {
    Ok(call.send().await?.error_for_status()?.json().await?)
}
