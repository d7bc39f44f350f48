//! Authoring and Management GraphQL: find items, publish them, and watch the job.
//! `cargo run --example authoring`. With `-- --live` it only reads, like `quickstart`.
mod support;
use std::{process::ExitCode, time::Duration};

use serde_json::json;
use sitecore_auth::{AuthMiddleware, TokenCache};
use support::{Cloud, Kind, Result, graphql, names};

const SEARCH: &str =
    "query($q: SearchQueryInput!) { search(query: $q) { totalCount results { name path } } }";
const PUBLISH: &str =
    "mutation($in: PublishItemInput!) { publishItem(input: $in) { operationId } }";
const STATUS: &str =
    "query($id: String!) { publishingStatus(publishingOperationId: $id) { isDone isFailed } }";
const JOBS: &str = "{ jobs { nodes { name done } } }";

#[tokio::main]
async fn main() -> ExitCode {
    support::exit(run().await)
}

async fn run() -> Result<()> {
    let cloud = Cloud::from_args(Duration::from_secs(3600)).await?;
    let url = cloud.authoring_url()?;
    let cache = TokenCache::new(cloud.tokens(Kind::Environment)?);
    let auth = AuthMiddleware::builder(cache).target(cloud.authoring()?).build()?;
    let client = auth.into_client(reqwest::Client::builder())?;

    let below = "/sitecore/content/acme/Home";
    let query = json!({ "q": { "searchStatement": { "criteria": [{ "field": "_fullpath", "value": below }] } } });
    let found = graphql(&client, &url, SEARCH, query).await?;
    println!("{} items: {}", found["search"]["totalCount"], names(&found["search"]["results"]));
    if cloud.sandbox.is_none() {
        return Ok(());
    }

    let input = json!({ "in": { "rootItemPath": below, "publishSubItems": true } });
    let started = graphql(&client, &url, PUBLISH, input).await?;
    let id = json!({ "id": started["publishItem"]["operationId"] });
    loop {
        let status = graphql(&client, &url, STATUS, id.clone()).await?;
        println!("published: {}", status["publishingStatus"]["isDone"]);
        if status["publishingStatus"]["isDone"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let jobs = graphql(&client, &url, JOBS, json!({})).await?;
    println!("jobs: {}", names(&jobs["jobs"]["nodes"]));
    Ok(())
}
