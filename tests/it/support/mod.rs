//! Shared helpers: test servers, token clients for them, a scripted source, a clock that follows
//! Tokio's paused time, and captured logs.

mod api;
mod clock;
mod cloud;
mod http_and_https;
mod logs;
mod raw;
#[cfg(unix)]
mod redis;
mod source;
mod store;

#[cfg(unix)]
pub(crate) use self::redis::{RedisServer, free_port, pause};
pub(crate) use self::{
    api::{TestApi, frames},
    clock::PausedClock,
    cloud::{ENVIRONMENT, cache_for, client_for, delivery_client, graphql},
    http_and_https::HttpAndHttps,
    logs::Logs,
    raw::{AfterWrite, RawServer},
    source::{ScriptedSource, Step, cache_of, first_fetch, text},
    store::{ByLease, FLEET_SECRET, Memory, Tied, caches, shared},
};

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, Target, TokenCache, TokenSource};
use sitecore_token::{ClientCredentials, Endpoint, TokenClient, TokenClientBuilder};
use url::Url;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// The client secret in every test. It must never appear in any output.
pub(crate) const SECRET: &str = "s3cret-sentinel-%+&=:/ ü";

/// Returns a builder for a token client that uses `token_url`.
pub(crate) fn client_of(token_url: &str) -> TokenClientBuilder {
    let mut url: Url = token_url.parse().expect("a URL");
    if url.path() == "/" {
        url.set_path("/oauth/token");
    }
    let endpoint = Endpoint::new(url, "https://api.example").expect("an endpoint");
    TokenClient::builder(ClientCredentials::new("client", SECRET)).endpoint(endpoint)
}

/// Starts a server that gives the same response to every request.
pub(crate) async fn serve(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(response).mount(&server).await;
    server
}

/// Returns a target that covers the whole server.
pub(crate) fn origin(server: &MockServer) -> Target {
    Target::origin(server.uri().parse().expect("a URL")).expect("an origin")
}

/// Returns a client whose requests to the target carry the source's tokens.
pub(crate) fn client_with(source: impl TokenSource, target: Target) -> ClientWithMiddleware {
    let auth = AuthMiddleware::builder(TokenCache::new(source)).target(target);
    wrap(auth.build().expect("a middleware"))
}

/// Returns a client with this middleware.
pub(crate) fn wrap(auth: AuthMiddleware) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new()).with(auth).build()
}

/// Returns an unsigned JWT with these claims.
pub(crate) fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmF0dXJl", part(&json!({ "alg": "none" })), part(claims))
}

/// Returns our error from inside the client's error.
pub(crate) fn auth_error(error: &reqwest_middleware::Error) -> &sitecore_auth::Error {
    sitecore_auth::Error::find(error).expect("an error of the middleware")
}

/// Returns the error and all its causes, each formatted with `{}`, `{:?}` and `{:#?}`.
pub(crate) fn all_formats(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(|error| format!("{error}\n{error:?}\n{error:#?}\n")).collect()
}

/// Runs the tasks that are ready without letting time pass.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Spawns a task, as a user's program would.
#[expect(clippy::disallowed_methods, reason = "the rule is for the libraries")]
pub(crate) fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

/// Starts a server that responds to these tokens with 401 and these challenges, and to others with
/// 200 and the token.
pub(crate) async fn rejecting(
    tokens: &'static [&'static str],
    challenges: &'static [&'static str],
) -> MockServer {
    let server = MockServer::start().await;
    let respond = move |request: &Request| {
        let sent = bearer(request);
        if tokens.iter().any(|token| *token == sent) {
            challenges
                .iter()
                .fold(ResponseTemplate::new(401).set_body_string("no"), |response, challenge| {
                    response.append_header("www-authenticate", *challenge)
                })
        } else {
            ResponseTemplate::new(200).set_body_string(sent)
        }
    };
    Mock::given(any()).respond_with(respond).mount(&server).await;
    server
}

/// Returns the bearer token of a request, or an empty string if it has none.
pub(crate) fn bearer(request: &Request) -> String {
    let header = request.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
    header.trim_start_matches("Bearer ").to_owned()
}

/// Returns the requests that the server has received.
pub(crate) async fn requests(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}
