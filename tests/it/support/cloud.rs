//! Clients for the sandbox's APIs, built as a program would build them.

use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::{
    AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient,
    edge::EdgeKeySource,
};
use sitecore_sandbox::{Api, Client, Sandbox};

use super::wrap;

/// The production environment of the sandbox's only project.
pub(crate) const ENVIRONMENT: &str = "2zYj6uPbNq0sWq0Nc9rU1d";

/// A cache for one of the sandbox's automation clients.
pub(crate) fn cache_for(sandbox: &Sandbox, client: &Client) -> TokenCache {
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience()).unwrap();
    let credentials = ClientCredentials::new(client.id(), client.secret());
    let tokens = TokenClient::builder(credentials).endpoint(endpoint).build();
    TokenCache::new(tokens.unwrap())
}

/// The middleware for an automation client, with every API that accepts a JWT as a target.
pub(crate) fn middleware_for(sandbox: &Sandbox, client: &Client) -> AuthMiddleware {
    let at = |target: Target, api| target.with_origin(sandbox.origin(api).clone()).unwrap();
    let auth = AuthMiddleware::builder(cache_for(sandbox, client))
        .target(at(Target::authoring("cm.example").unwrap(), Api::Authoring))
        .target(at(Target::deploy(), Api::Deploy))
        .target(at(Target::edge_admin(), Api::Edge));
    auth.build().unwrap()
}

/// An HTTP client whose calls carry this automation client's token.
pub(crate) fn client_for(sandbox: &Sandbox, client: &Client) -> ClientWithMiddleware {
    wrap(middleware_for(sandbox, client))
}

/// An HTTP client for the Delivery API, with the key of the sandbox's environment.
pub(crate) fn delivery_client(sandbox: &Sandbox) -> ClientWithMiddleware {
    let deploy = client_for(sandbox, sandbox.organization());
    let keys = EdgeKeySource::deploy_api(deploy, ENVIRONMENT);
    let keys = keys.with_origin(sandbox.origin(Api::Deploy).clone()).unwrap();
    let target = Target::edge_delivery().with_origin(sandbox.origin(Api::Edge).clone());
    let auth = AuthMiddleware::builder(TokenCache::new(keys)).target(target.unwrap());
    wrap(auth.build().unwrap())
}

/// Sends a GraphQL request and returns the response body.
pub(crate) async fn graphql(client: &ClientWithMiddleware, url: url::Url, query: &str) -> Value {
    let call = client.post(url).json(&json!({ "query": query }));
    call.send().await.unwrap().json().await.unwrap()
}
