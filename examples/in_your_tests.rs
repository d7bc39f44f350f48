//! A test of your own on the sandbox: it shows offline and in seconds that your code survives
//! failures. `cargo test --example in_your_tests` runs it as a test, and `cargo run --example
//! in_your_tests` as a program.

use std::time::Duration;

use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient};
use sitecore_sandbox::{Api, Fault, Sandbox};
use url::Url;

/// Your code. It gets a client and knows nothing about tokens.
async fn site_names(client: &ClientWithMiddleware, url: &Url) -> Result<Vec<String>, String> {
    let call = client.post(url.clone()).json(&json!({ "query": "{ sites { name } }" }));
    let response = call.send().await.map_err(|error| error.to_string())?;
    let response: Value = response.json().await.map_err(|error| error.to_string())?;
    let sites = response["data"]["sites"].as_array().ok_or_else(|| response.to_string())?;
    Ok(sites.iter().filter_map(|site| site["name"].as_str()).map(str::to_owned).collect())
}

/// Your client, built as in your program except for the addresses.
fn client(sandbox: &Sandbox) -> Result<ClientWithMiddleware, Box<dyn std::error::Error>> {
    let client = sandbox.environment();
    let tokens = TokenClient::builder(ClientCredentials::new(client.id(), client.secret()))
        .endpoint(Endpoint::new(sandbox.token_url(), sandbox.audience())?)
        .build()?;
    let target =
        Target::authoring("cm.example")?.with_origin(sandbox.origin(Api::Authoring).clone())?;
    let auth = AuthMiddleware::builder(TokenCache::new(tokens)).target(target).build()?;
    Ok(auth.into_client(reqwest::Client::builder())?)
}

async fn scenario() {
    let sandbox = Sandbox::start().await.expect("a sandbox");
    let client = client(&sandbox).expect("a client");
    let url = sandbox.authoring_url();
    // The first token request fails, and the second one is slow.
    sandbox.script(Api::Token, [Fault::status(503), Fault::delay(Duration::from_millis(300))]);
    assert_eq!(site_names(&client, &url).await.expect("names"), ["acme", "acme-campaigns"]);
    assert_eq!(sandbox.tokens_granted(), 1);
    // The token is revoked. Authoring reports that with status 200.
    sandbox.revoke_tokens();
    assert_eq!(site_names(&client, &url).await.expect("names").len(), 2);
    assert_eq!((sandbox.tokens_granted(), sandbox.rejections(Api::Authoring)), (2, 1));
    // A failure of the API itself reaches your code unchanged.
    sandbox.script(Api::Authoring, [Fault::garbage()]);
    assert!(site_names(&client, &url).await.is_err());
}

#[tokio::test]
async fn the_sites_are_listed_in_spite_of_token_failures() {
    scenario().await;
}

#[tokio::main]
async fn main() {
    scenario().await;
    println!("passed");
}
