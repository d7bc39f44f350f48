//! What several tests need: a token client for a test server, a scripted source, a clock that follows
//! Tokio's paused time, a server that writes raw bytes, and captured logs.

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
    api::{Api, frames},
    clock::PausedClock,
    cloud::{ENVIRONMENT, cache_for, client_for, delivery_client, graphql},
    http_and_https::HttpAndHttps,
    logs::Logs,
    raw::{RawServer, Then},
    source::{ScriptedSource, Step, cache_of, first_fetch, text},
    store::{ByLease, FLEET_SECRET, Memory, Tied, caches, shared},
};

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, Target, TokenCache, TokenSource};
use sitecore_token::{ClientCredentials, Endpoint, TokenClient, TokenClientBuilder};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

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

/// That server, all of it.
pub(crate) fn origin(server: &MockServer) -> Target {
    Target::origin(server.uri().parse().expect("a URL")).expect("an origin")
}

/// A client whose calls to the target carry the source's tokens.
pub(crate) fn client_with(source: impl TokenSource, target: Target) -> ClientWithMiddleware {
    let auth = AuthMiddleware::builder(TokenCache::new(source)).target(target);
    wrap(auth.build().expect("a layer"))
}

/// A client with this layer.
pub(crate) fn wrap(auth: AuthMiddleware) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new()).with(auth).build()
}

/// An unsigned JWT with these claims.
pub(crate) fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmF0dXJl", part(&json!({ "alg": "none" })), part(claims))
}

/// Our error in the one that a call ends with.
pub(crate) fn auth_error(error: &reqwest_middleware::Error) -> &sitecore_auth::Error {
    let reqwest_middleware::Error::Middleware(error) = error else { panic!("{error:?}") };
    error.downcast_ref().expect("an error of the layer")
}

/// An error as people meet it: `{}`, `{:?}`, `{:#?}` and the same of every cause.
pub(crate) fn everything_said(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(|error| format!("{error}\n{error:?}\n{error:#?}\n")).collect()
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

/// Answers 401 to these tokens (with these challenges) and 200 to others, counting.
pub(crate) async fn refusing(
    tokens: &'static [&'static str],
    challenges: &'static [&'static str],
) -> MockServer {
    let server = MockServer::start().await;
    let answer = move |request: &Request| {
        let sent = bearer(request);
        if tokens.iter().any(|token| *token == sent) {
            challenges
                .iter()
                .fold(ResponseTemplate::new(401).set_body_string("no"), |answer, challenge| {
                    answer.append_header("www-authenticate", *challenge)
                })
        } else {
            ResponseTemplate::new(200).set_body_string(sent)
        }
    };
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

/// The bearer token of a request; an empty one for none.
pub(crate) fn bearer(request: &Request) -> String {
    let header = request.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
    header.trim_start_matches("Bearer ").to_owned()
}

/// What the server has received.
pub(crate) async fn requests(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}
