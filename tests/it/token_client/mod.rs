//! The raw token client, on real sockets.

mod credentials;
mod network;
mod rate_limits;
mod refusals;
mod request;
mod response;
mod settings;

use serde_json::json;
use sitecore_token::Error;
use wiremock::{MockServer, ResponseTemplate};

use crate::support::{client_of, serve};

/// Starts a server that grants a token.
async fn granting() -> MockServer {
    serve(ResponseTemplate::new(200).set_body_json(json!({ "access_token": "opaque" }))).await
}

/// Fetches a token from a server with this response, and returns the error.
async fn error_of(response: ResponseTemplate) -> Error {
    let server = serve(response).await;
    client_of(&server.uri()).build().unwrap().fetch().await.expect_err("an error")
}

/// Returns an OAuth error response.
fn refusal(status: u16, code: &str, description: &str) -> ResponseTemplate {
    ResponseTemplate::new(status)
        .set_body_json(json!({ "error": code, "error_description": description }))
}
