//! A test of your own against the sandbox: your code survives what a real cloud does, offline and in
//! seconds. `cargo test --example in_your_tests` runs it as a test, `cargo run` without the harness.

use std::time::Duration;

use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use serde_json::{Value, json};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient, redirect_policy,
};
use sitecore_sandbox::{Api, Fault, Sandbox};
use url::Url;

/// Your code: it gets a client, and knows nothing of tokens.
async fn names_of_sites(client: &ClientWithMiddleware, url: &Url) -> Result<Vec<String>, String> {
    let call = client.post(url.clone()).json(&json!({ "query": "{ sites { name } }" }));
    let answer = call.send().await.map_err(|error| error.to_string())?;
    let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
    let sites = answer["data"]["sites"].as_array().ok_or_else(|| answer.to_string())?;
    Ok(sites.iter().map(|site| site["name"].to_string()).collect())
}

/// Your client, as your program builds it, but for the addresses.
fn client(sandbox: &Sandbox) -> Result<ClientWithMiddleware, Box<dyn std::error::Error>> {
    let client = sandbox.environment();
    let tokens = TokenClient::builder(ClientCredentials::new(client.id(), client.secret()))
        .endpoint(Endpoint::new(sandbox.token_url(), sandbox.audience())?)
        .build()?;
    let target =
        Target::authoring("cm.example")?.with_origin(sandbox.origin(Api::Authoring).clone())?;
    let auth = AuthMiddleware::builder(TokenCache::new(tokens)).target(target).build()?;
    Ok(ClientBuilder::new(
        reqwest::Client::builder().redirect(redirect_policy()).no_proxy().build()?,
    )
    .with(auth)
    .build())
}

async fn scenario() {
    let sandbox = Sandbox::start().await.expect("a sandbox");
    let client = client(&sandbox).expect("a client");
    let url = sandbox.authoring_url();
    // The issuer is in trouble for the first two grants.
    sandbox.script(Api::Token, [Fault::status(503), Fault::delay(Duration::from_millis(300))]);
    assert_eq!(names_of_sites(&client, &url).await.expect("names").len(), 2);
    assert_eq!(sandbox.tokens_granted(), 1);
    // Somebody revokes the token: Authoring says so with status 200.
    sandbox.revoke_tokens();
    assert_eq!(names_of_sites(&client, &url).await.expect("names").len(), 2);
    assert_eq!((sandbox.tokens_granted(), sandbox.rejections(Api::Authoring)), (2, 1));
    // A failure of the API itself reaches your code as it is.
    sandbox.script(Api::Authoring, [Fault::garbage()]);
    assert!(names_of_sites(&client, &url).await.is_err());
}

#[tokio::test]
async fn the_sites_are_listed_whatever_happens_to_the_token() {
    scenario().await;
}

#[tokio::main]
async fn main() {
    scenario().await;
    println!("passed");
}
