//! What several tests need: a token client for a test server, a scripted source, a clock that follows
//! Tokio's paused time, a server that writes raw bytes, and captured logs.

mod clock;
mod logs;
mod raw;
mod source;

pub(crate) use self::{
    clock::PausedClock,
    logs::Logs,
    raw::{RawServer, Then},
    source::{ScriptedSource, Step, cache_of, text},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sitecore_token::{ClientCredentials, Endpoint, TokenClient, TokenClientBuilder};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

/// Stands for the client secret in every test: it must appear nowhere.
pub(crate) const SECRET: &str = "s3cret-sentinel-%+&=:/ ü";

/// Starts a builder for a client of `token_url`.
pub(crate) fn client_of(token_url: &str) -> TokenClientBuilder {
    let url = token_url.parse().expect("a URL");
    let endpoint = Endpoint::new(url, "https://api.example").expect("an endpoint");
    TokenClient::builder(ClientCredentials::new("client", SECRET)).endpoint(endpoint)
}

/// Serves one answer to every request.
pub(crate) async fn serve(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

/// An unsigned JWT with these claims.
pub(crate) fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.c2lnbmF0dXJl",
        part(&json!({ "alg": "none" })),
        part(claims)
    )
}

/// An error as people meet it: `{}`, `{:?}`, `{:#?}` and the same of every cause.
pub(crate) fn everything_said(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain
        .map(|error| format!("{error}\n{error:?}\n{error:#?}\n"))
        .collect()
}

/// Lets tasks that are ready run, without letting time pass.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Spawns what a user would spawn.
#[expect(clippy::disallowed_methods, reason = "the rule is for the libraries")]
pub(crate) fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}
