//! The Deploy API: list all environments page by page, then create, start and watch a deployment.
//! `cargo run --example deploy`. With `-- --live` it only reads, with an organization automation
//! client.
mod support;
use std::{process::ExitCode, time::Duration};

use sitecore_auth::{AuthMiddleware, Target, TokenCache};
use sitecore_sandbox::Api;
use support::{Cloud, Kind, Result, json_of};

#[tokio::main]
async fn main() -> ExitCode {
    support::exit(run().await)
}

async fn run() -> Result<()> {
    let cloud = Cloud::from_args(Duration::from_secs(3600)).await?;
    let cache = TokenCache::new(cloud.tokens(Kind::Organization)?);
    let target = cloud.at(Target::deploy(), Api::Deploy)?;
    let auth = AuthMiddleware::builder(cache).target(target).build()?;
    let client = auth.into_client(reqwest::Client::builder())?;
    let url = |path: &str| cloud.url(Api::Deploy, path);

    let mut environments = Vec::new();
    for page in 1.. {
        let path = format!("/api/environments/v2?pageNumber={page}&pageSize=1");
        let mut response = json_of(client.get(url(&path)?)).await?;
        match response["data"].as_array_mut() {
            Some(entries) if !entries.is_empty() => environments.append(entries),
            _ => break,
        }
    }
    for environment in &environments {
        println!("{} at {}", environment["name"], environment["host"]);
    }
    let (Some(first), true) = (environments.first(), cloud.sandbox.is_some()) else {
        return Ok(());
    };

    let id = first["id"].as_str().unwrap_or_default();
    let created = url(&format!("/api/environments/v1/{id}/deployments"))?;
    let created = json_of(client.post(created)).await?;
    let path = format!("/api/deployments/v1/{}", created["id"].as_str().unwrap_or_default());
    client.post(url(&format!("{path}/deploy"))?).send().await?.error_for_status()?;
    loop {
        let deployment = json_of(client.get(url(&path)?)).await?;
        // 0: not started, 1: in progress, 2: completed, 3: failed, 4: skipped.
        match deployment["calculatedStatus"].as_u64() {
            Some(0 | 1) => println!("deployment: in progress"),
            Some(2) => break println!("deployment: completed"),
            state => return Err(format!("the deployment ended in state {state:?}").into()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
