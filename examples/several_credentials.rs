//! Several credentials on one client, each for its own APIs: find the environment with Deploy,
//! query Authoring, clear the Edge cache, and read from Delivery. `cargo run --example
//! several_credentials`, on the embedded sandbox.
mod support;
use std::{process::ExitCode, time::Duration};

use reqwest::redirect::Policy;
use reqwest_middleware::ClientBuilder;
use serde_json::json;
use sitecore_auth::{AuthMiddleware, Target, TokenCache, edge::EdgeKeySource};
use sitecore_sandbox::{Api, Api::Deploy, Sandbox};
use support::{Cloud, Kind::*, Result, graphql, json_of, names};

const HOME: &str = r#"{ item(path: "/sitecore/content/acme/Home", language: "en") {
    children { results { name } }
} }"#;

#[tokio::main]
async fn main() -> ExitCode {
    support::exit(run().await)
}

async fn run() -> Result<()> {
    let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(60));
    let cloud = Cloud::of(sandbox.start().await?)?;
    let auth = |kind, target| -> Result<AuthMiddleware> {
        let cache = TokenCache::new(cloud.tokens(kind)?);
        Ok(AuthMiddleware::builder(cache).target(target).build()?)
    };
    let deploy = auth(Organization, cloud.at(Target::deploy(), Deploy)?)?;
    let authoring = auth(Environment, cloud.authoring()?)?;
    let edge = auth(Edge, cloud.at(Target::edge_admin(), Api::Edge)?)?;
    // Each policy keeps one middleware's tokens where they belong, and leaves other redirects to the
    // next.
    let policy = edge.redirect_policy(Policy::default());
    let policy = deploy.redirect_policy(authoring.redirect_policy(policy));
    let http = reqwest::Client::builder().redirect(policy).no_proxy().build()?;
    // The first middleware with a matching target sets the header. The others pass the request on
    // unchanged.
    let client = ClientBuilder::new(http).with(deploy).with(authoring).with(edge).build();

    let page = json_of(client.get(cloud.url(Deploy, "/api/environments/v2")?)).await?;
    let environment = &page["data"][0];
    println!("environment: {}", environment["host"]);

    let sites = graphql(&client, &cloud.authoring_url()?, "{ sites { name } }", json!({})).await?;
    println!("sites: {}", names(&sites["sites"]));

    let cache = cloud.url(Api::Edge, "/api/admin/v1/cache")?;
    println!("edge cache: {}", client.delete(cache).send().await?.status());

    // Delivery requires a key, which a source obtains from the Deploy API.
    let id = environment["id"].as_str().unwrap_or_default();
    let keys =
        EdgeKeySource::deploy_api(client.clone(), id).with_origin(cloud.url(Deploy, "/")?)?;
    let target = cloud.at(Target::edge_delivery(), Api::Edge)?;
    let auth = AuthMiddleware::builder(TokenCache::new(keys)).target(target);
    let delivery = auth.build()?.into_client(reqwest::Client::builder())?;
    let url = cloud.url(Api::Edge, "/api/graphql/v1")?;
    let home = graphql(&delivery, &url, HOME, json!({})).await?;
    println!("published below Home: {}", names(&home["item"]["children"]["results"]));
    let granted = cloud.sandbox.as_ref().map_or(0, Sandbox::tokens_granted);
    println!("tokens granted: {granted}");
    Ok(())
}
