//! Typed GraphQL: a query that is checked against a schema at compile time.
//! `cargo run --example typed_graphql`, on the embedded sandbox.

use std::error::Error;

use graphql_client::{GraphQLQuery, Response};
use reqwest_middleware::ClientWithMiddleware;
use sitecore_auth::{AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient};
use sitecore_sandbox::Sandbox;
use url::Url;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "examples/graphql/authoring.graphql",
    query_path = "examples/graphql/children.graphql",
    response_derives = "Debug"
)]
struct Children;

/// Sends a typed query. A response with errors is a failure, even with status 200.
async fn send<Q: GraphQLQuery>(
    client: &ClientWithMiddleware,
    url: &Url,
    variables: Q::Variables,
) -> Result<Q::ResponseData> {
    let call = client.post(url.clone()).json(&Q::build_query(variables));
    let response = call.send().await?.error_for_status()?;
    let response: Response<Q::ResponseData> = response.json().await?;
    match response.errors {
        Some(errors) if !errors.is_empty() => {
            let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
            Err(messages.join("; ").into())
        }
        _ => response.data.ok_or_else(|| "a response without data".into()),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let sandbox = Sandbox::start().await?;
    let url = sandbox.authoring_url();
    // The second client gets a token but may not read, because it has only Edge's scopes.
    for client in [sandbox.environment(), sandbox.edge_administration()] {
        let credentials = ClientCredentials::new(client.id(), client.secret());
        let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
        let cache = TokenCache::new(TokenClient::builder(credentials).endpoint(endpoint).build()?);
        let target = Target::authoring(url.clone())?;
        let auth = AuthMiddleware::builder(cache).target(target).build()?;
        let client = auth.into_client(reqwest::Client::builder())?;
        let path = "/sitecore/content/acme/Home".to_owned();
        match send::<Children>(&client, &url, children::Variables { path }).await {
            Ok(data) => {
                let item = data.item.ok_or("no such item")?;
                let names = item.children.nodes.iter().map(|child| child.name.as_str());
                println!("{}: {}", item.name, names.collect::<Vec<_>>().join(", "));
            }
            Err(error) => println!("status 200, but: {error}"),
        }
    }
    Ok(())
}
