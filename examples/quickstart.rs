//! The main job: GraphQL and REST calls that carry a valid token, which this program never sees.
//!
//! `cargo run --example quickstart` runs on the embedded sandbox, with tokens that live 4 seconds.
//! `cargo run --example quickstart -- --live` reads from your tenant: set `SITECORE_AUTHORING_URL`,
//! `SITECORE_AUTH_CLIENT_ID` and `SITECORE_AUTH_CLIENT_SECRET`, and, for another issuer,
//! `SITECORE_AUTH_AUTHORITY` and `SITECORE_AUTH_AUDIENCE`. It costs one grant.

use std::{process::ExitCode, time::Duration};

use futures_util::future::try_join_all;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use serde_json::{Value, json};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient, redirect_policy,
};
use sitecore_sandbox::{Api, Sandbox};
use tokio::time::Instant;
use url::Url;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const SITES: &str = "{ sites { name } }";
const CREATE: &str =
    "mutation($in: CreateItemInput!) { createItem(input: $in) { item { itemId path } } }";
const HERD: usize = 200;

#[tokio::main]
async fn main() -> ExitCode {
    let run = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => sandbox_run().await,
        [live] if live == "--live" => live_run().await,
        _ => Err("the one argument there is, is --live".into()),
    };
    let Err(error) = run else {
        return ExitCode::SUCCESS;
    };
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    eprintln!(
        "quickstart: {error}{}",
        causes.map(|cause| format!(": {cause}")).collect::<String>()
    );
    ExitCode::FAILURE
}

/// Wraps an existing client: three lines.
fn wrap(
    http: reqwest::Client,
    cache: &TokenCache,
    targets: &[Target],
) -> Result<ClientWithMiddleware> {
    let auth = AuthMiddleware::builder(cache.clone());
    let auth = targets
        .iter()
        .cloned()
        .fold(auth, |auth, target| auth.target(target))
        .build()?;
    Ok(ClientBuilder::new(http).with(auth).build())
}

async fn sandbox_run() -> Result<()> {
    let sandbox = Sandbox::builder()
        .token_life(Duration::from_secs(4))
        .start()
        .await?;
    let credentials =
        ClientCredentials::new(sandbox.organization().id(), sandbox.organization().secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let tokens = TokenClient::builder(credentials)
        .endpoint(endpoint)
        .build()?;
    let targets = [
        Target::authoring("cm.example")?.at(sandbox.origin(Api::Authoring).clone())?,
        Target::deploy().at(sandbox.origin(Api::Deploy).clone())?,
    ];
    // Loopback is not the business of a proxy.
    let http = reqwest::Client::builder()
        .redirect(redirect_policy())
        .no_proxy();
    let http = http.build()?;
    let url = sandbox.authoring_url();
    let client = wrap(http.clone(), &TokenCache::new(tokens.clone()), &targets)?;

    let data = timed("list sites", graphql(&client, &url, SITES, json!({}))).await?;
    println!("    {}", names(&data["sites"]));
    let parent = "query($w: ItemQueryInput!) { item(where: $w) { itemId name } }";
    let home = graphql(
        &client,
        &url,
        parent,
        json!({ "w": { "path": "/sitecore/content/acme/Home" } }),
    )
    .await?;
    let item = json!({ "in": { "name": "Hello", "parent": home["item"]["itemId"], "templateId": "a87a00b1-e6db-45ab-8b54-9fc06c7b9d2e" } });
    let made = timed("create an item", graphql(&client, &url, CREATE, item)).await?;
    let path = &made["createItem"]["item"]["path"];
    let read = timed(
        "read it back",
        graphql(&client, &url, parent, json!({ "w": { "path": path } })),
    )
    .await?;
    println!("    {} at {path}", read["item"]["name"]);
    let projects = timed("list projects", async {
        let answer = client
            .get(sandbox.url(Api::Deploy, "/api/projects/v1"))
            .send()
            .await?;
        Ok(answer.error_for_status()?.json::<Value>().await?)
    });
    println!("    {}", names(&projects.await?));
    println!("    grants so far: {}", sandbox.grants());

    let before = sandbox.grants();
    let cold = TokenCache::new(tokens);
    herd(&wrap(http, &cold, &targets)?, &url).await?;
    println!("    grants for these: {}", sandbox.grants() - before);

    let (begun, before, mut calls, mut slowest) =
        (Instant::now(), sandbox.grants(), 0, Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(11) {
        let asked = Instant::now();
        graphql(&client, &url, SITES, json!({})).await?;
        (calls, slowest) = (calls + 1, slowest.max(asked.elapsed()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{calls} calls across three token lives, the slowest in {slowest:.1?}");
    println!("    grants for these: {}", sandbox.grants() - before);
    let refused = [Api::Token, Api::Authoring, Api::Deploy].map(|api| sandbox.refusals(api));
    println!("refused, in all: {}", refused.iter().sum::<u64>());
    Ok(())
}

async fn live_run() -> Result<()> {
    let url = std::env::var("SITECORE_AUTHORING_URL")
        .map_err(|_| "SITECORE_AUTHORING_URL is not set: give https://<host>/sitecore/api/authoring/graphql/v1/")?;
    let url =
        Url::parse(&url).map_err(|error| format!("SITECORE_AUTHORING_URL is no URL: {error}"))?;
    let tokens = TokenClient::builder(ClientCredentials::from_env()?)
        .endpoint(Endpoint::from_env()?)
        .build()?;
    let cache = TokenCache::new(tokens);
    // A CM runs its customer's code: the token goes to its API alone.
    let target = match url.path().starts_with("/sitecore/api/") {
        true => Target::authoring("cm.example")?.at(url.join("/")?)?,
        false => Target::origin(url.join("/")?)?,
    };
    let http = reqwest::Client::builder().redirect(redirect_policy());
    let http = if url.scheme() == "http" {
        http.no_proxy()
    } else {
        http
    };
    let client = wrap(http.build()?, &cache, &[target])?;
    let data = timed("list sites", graphql(&client, &url, SITES, json!({}))).await?;
    println!("    {}", names(&data["sites"]));
    herd(&client, &url).await?;
    println!("    grants for all of these: {}", cache.status().grants());
    Ok(())
}

async fn herd(client: &ClientWithMiddleware, url: &Url) -> Result<()> {
    let calls = (0..HERD).map(|_| graphql(client, url, SITES, json!({})));
    timed(&format!("{HERD} calls at once"), try_join_all(calls))
        .await
        .map(drop)
}

/// A GraphQL answer with errors is no success, whatever its status.
async fn graphql(
    client: &ClientWithMiddleware,
    url: &Url,
    query: &str,
    variables: Value,
) -> Result<Value> {
    let call = client
        .post(url.clone())
        .json(&json!({ "query": query, "variables": variables }));
    let mut answer: Value = call.send().await?.error_for_status()?.json().await?;
    match answer["errors"].take() {
        Value::Null => Ok(answer["data"].take()),
        errors => Err(format!("the API answered with errors: {errors}").into()),
    }
}

async fn timed<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let begun = Instant::now();
    let done = work.await?;
    println!("{what}: {:.1?}", begun.elapsed());
    Ok(done)
}

fn names(list: &Value) -> String {
    let names = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["name"].as_str());
    names.collect::<Vec<_>>().join(", ")
}
