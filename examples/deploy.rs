//! The Deploy API: list all environments page by page, then create, start and watch a deployment.
//! `cargo run --example deploy`. With `-- --live` it only reads, with an organization automation
//! client.
mod support;
use std::{process::ExitCode, time::Duration};

use reqwest_middleware::ClientBuilder;
use serde_json::json;
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
    let client = ClientBuilder::new(cloud.http()?).with(auth).build();
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

    let body = json!({ "environmentId": first["id"] });
    let created = json_of(client.post(url("/api/deployments/v1")?).json(&body)).await?;
    let path = format!("/api/deployments/v1/{}", created["id"].as_str().unwrap_or_default());
    json_of(client.post(url(&format!("{path}/deploy"))?)).await?;
    loop {
        let deployment = json_of(client.get(url(&path)?)).await?;
        println!("deployment: {}", deployment["status"]);
        if deployment["completed"] == true {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
