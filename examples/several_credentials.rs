//! Several credentials on one client, each for its own APIs: find the environment with Deploy,
//! query Authoring, clear the Edge cache, and read from Delivery. `cargo run --example
//! several_credentials`, on the embedded sandbox.

use std::error::Error;

use reqwest::redirect::Policy;
use reqwest_middleware::{ClientBuilder, RequestBuilder};
use serde_json::{Value, json};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient,
    edge::EdgeKeySource,
};
use sitecore_sandbox::{Api, Client, Sandbox};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const HOME: &str = r#"{ item(path: "/sitecore/content/acme/Home", language: "en") {
    children { results { name } }
} }"#;

#[tokio::main]
async fn main() -> Result<()> {
    let sandbox = Sandbox::start().await?;
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let auth = |client: &Client, target| -> Result<AuthMiddleware> {
        let credentials = ClientCredentials::new(client.id(), client.secret());
        let tokens = TokenClient::builder(credentials).endpoint(endpoint.clone()).build()?;
        Ok(AuthMiddleware::builder(TokenCache::new(tokens)).target(target).build()?)
    };
    let on_sandbox = |target: Target, api| target.with_origin(sandbox.origin(api).clone());
    let deploy = auth(sandbox.organization(), on_sandbox(Target::deploy(), Api::Deploy)?)?;
    let authoring = auth(sandbox.environment(), Target::authoring(sandbox.authoring_url())?)?;
    let edge = auth(sandbox.edge_administration(), on_sandbox(Target::edge_admin(), Api::Edge)?)?;
    // Each policy keeps one middleware's tokens where they belong, and leaves other redirects to the
    // next.
    let policy = edge.redirect_policy(Policy::default());
    let policy = deploy.redirect_policy(authoring.redirect_policy(policy));
    let http = reqwest::Client::builder().redirect(policy).no_proxy().build()?;
    // The first middleware with a matching target sets the header. The others pass the request on
    // unchanged.
    let client = ClientBuilder::new(http).with(deploy).with(authoring).with(edge).build();

    let environments = sandbox.url(Api::Deploy, "/api/environments/v2");
    let environment = &json_of(client.get(environments)).await?["data"][0];
    println!("environment: {}", environment["host"]);

    let query = json!({ "query": "{ sites { name } }" });
    let sites = json_of(client.post(sandbox.authoring_url()).json(&query)).await?;
    println!("sites: {}", names(&sites["data"]["sites"]));

    let cache = sandbox.url(Api::Edge, "/api/admin/v1/cache");
    let cleared = client.delete(cache).send().await?.error_for_status()?;
    println!("edge cache: {}", cleared.status());

    // Delivery requires a key, which a source obtains from the Deploy API.
    let id = environment["id"].as_str().ok_or("an environment without an id")?;
    let keys = EdgeKeySource::deploy_api(client.clone(), id)
        .with_origin(sandbox.origin(Api::Deploy).clone())?;
    let target = on_sandbox(Target::edge_delivery(), Api::Edge)?;
    let auth = AuthMiddleware::builder(TokenCache::new(keys)).target(target);
    let delivery = auth.build()?.into_client(reqwest::Client::builder())?;
    let query = json!({ "query": HOME });
    let home = json_of(delivery.post(sandbox.delivery_url()).json(&query)).await?;
    let children = &home["data"]["item"]["children"]["results"];
    println!("published below Home: {}", names(children));
    println!("tokens granted: {}", sandbox.tokens_granted());
    Ok(())
}

async fn json_of(call: RequestBuilder) -> Result<Value> {
    Ok(call.send().await?.error_for_status()?.json().await?)
}

fn names(list: &Value) -> String {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(|entry| entry["name"].as_str()).collect::<Vec<_>>().join(", ")
}
