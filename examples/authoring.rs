//! Authoring and Management GraphQL: find items, publish them, and watch the job.
//!
//! `cargo run --example authoring` runs on the embedded sandbox. With `-- --live` it only reads,
//! and takes the URL and the credentials from the same variables as `quickstart`.

use std::{env, error::Error, time::Duration};

use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient};
use sitecore_sandbox::Sandbox;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const HOME: &str = "/sitecore/content/acme/Home";
const SEARCH: &str =
    "query($q: SearchQueryInput!) { search(query: $q) { totalCount results { name path } } }";
const PUBLISH: &str =
    "mutation($in: PublishItemInput!) { publishItem(input: $in) { operationId } }";
const STATUS: &str =
    "query($id: String!) { publishingStatus(publishingOperationId: $id) { isDone isFailed } }";
const JOBS: &str = "{ jobs { nodes { name done } } }";

#[tokio::main]
async fn main() -> Result<()> {
    let argument = env::args().nth(1);
    if argument.as_deref().is_some_and(|argument| argument != "--live") {
        return Err("unknown argument; expected --live or nothing".into());
    }
    if argument.is_some() {
        let url = env::var("SITECORE_AUTHORING_URL")
            .map_err(|_| "SITECORE_AUTHORING_URL is not set; see `quickstart`")?;
        let auth = AuthMiddleware::from_env([Target::authoring(&url)?])?;
        let client = auth.into_client(reqwest::Client::builder())?;
        return find(&client, &url).await;
    }

    let sandbox = Sandbox::start().await?;
    let url = sandbox.authoring_url().to_string();
    let credentials =
        ClientCredentials::new(sandbox.environment().id(), sandbox.environment().secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let cache = TokenCache::new(TokenClient::builder(credentials).endpoint(endpoint).build()?);
    let auth = AuthMiddleware::builder(cache).target(Target::authoring(&url)?).build()?;
    let client = auth.into_client(reqwest::Client::builder())?;
    find(&client, &url).await?;
    publish(&client, &url).await
}

async fn find(client: &ClientWithMiddleware, url: &str) -> Result<()> {
    let criteria = json!({ "criteria": [{ "field": "_fullpath", "value": HOME }] });
    let found =
        graphql(client, url, SEARCH, json!({ "q": { "searchStatement": criteria } })).await?;
    println!("{} items: {}", found["search"]["totalCount"], names(&found["search"]["results"]));
    Ok(())
}

async fn publish(client: &ClientWithMiddleware, url: &str) -> Result<()> {
    let input = json!({ "in": { "rootItemPath": HOME, "publishSubItems": true } });
    let started = graphql(client, url, PUBLISH, input).await?;
    let id = json!({ "id": started["publishItem"]["operationId"] });
    loop {
        let status = &graphql(client, url, STATUS, id.clone()).await?["publishingStatus"];
        println!("published: {}", status["isDone"]);
        match (status["isDone"].as_bool(), status["isFailed"].as_bool()) {
            (Some(true), Some(false)) => break,
            (Some(false), Some(false)) => {}
            _ => return Err(format!("the publishing job failed: {status}").into()),
        }
        // Real jobs take longer. Ask every few seconds, and set a limit.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let jobs = graphql(client, url, JOBS, json!({})).await?;
    println!("jobs: {}", names(&jobs["jobs"]["nodes"]));
    Ok(())
}

/// Makes a GraphQL call. A response with errors is a failure, even with status 200.
async fn graphql(
    client: &ClientWithMiddleware,
    url: &str,
    query: &str,
    variables: Value,
) -> Result<Value> {
    let call = client.post(url).json(&json!({ "query": query, "variables": variables }));
    let mut response: Value = call.send().await?.error_for_status()?.json().await?;
    match response["errors"].take() {
        Value::Null => Ok(response["data"].take()),
        errors => Err(format!("the API returned errors: {errors}").into()),
    }
}

fn names(list: &Value) -> String {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(|entry| entry["name"].as_str()).collect::<Vec<_>>().join(", ")
}
