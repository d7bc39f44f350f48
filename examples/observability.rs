//! What a health endpoint and Prometheus show while the issuer and the API fail:
//! `cargo run --example observability`, on the embedded sandbox.

use std::{error::Error, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sitecore_auth::{AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient};
use sitecore_sandbox::{Api, Fault, Sandbox};
use tokio::net::TcpListener;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Ready if there is a usable token, or if the last refresh did not fail. Not ready must not mean
/// *restart*, because a restarted process has no token either. If only ready processes receive
/// traffic, spawn `keep_fresh`: otherwise nothing starts a refresh.
async fn ready(State((cache, _)): State<Watched>) -> (StatusCode, String) {
    // Starts a refresh if one is due.
    let _ = cache.current();
    let status = cache.status();
    let code = if status.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let why = status.last_error().map(|error| format!("; {error}"));
    let body = format!(
        "{:?}, {} token requests so far{}",
        status.freshness(),
        status.token_requests(),
        why.unwrap_or_default()
    );
    (code, body)
}

async fn metrics(State((_, prometheus)): State<Watched>) -> String {
    prometheus.render()
}

type Watched = (TokenCache, PrometheusHandle);

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "a health endpoint of the program's own")]
async fn main() -> Result<()> {
    let prometheus = PrometheusBuilder::new().set_buckets(&[0.1, 1.0, 10.0])?.install_recorder()?;
    let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(3)).start().await?;
    let credentials =
        ClientCredentials::new(sandbox.organization().id(), sandbox.organization().secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let tokens = TokenClient::builder(credentials).endpoint(endpoint).build()?;
    // The name identifies this cache in logs and metrics.
    let cache = TokenCache::builder(tokens).name("deploy").build()?;
    let target = Target::deploy().with_origin(sandbox.origin(Api::Deploy).clone())?;
    let auth = AuthMiddleware::builder(cache.clone()).target(target);
    let client = auth.build()?.into_client(reqwest::Client::builder())?;
    let projects = sandbox.url(Api::Deploy, "/api/projects/v1");

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let health = format!("http://{}", listener.local_addr()?);
    let app = Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state((cache, prometheus));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let http = reqwest::Client::builder().no_proxy().build()?;
    let print_ready = async |when: &str| {
        let response = http.get(format!("{health}/ready")).send().await?;
        println!("{when}: {} {}", response.status(), response.text().await?);
        Result::<()>::Ok(())
    };
    let call = async || {
        let response = client.get(projects.clone()).send().await;
        response.map(|response| response.status())
    };

    // The first check starts a refresh. The issuer fails once, and yet the first call gets a token.
    sandbox.script(Api::Token, [Fault::status(503)]);
    print_ready("before the first call").await?;
    call().await?;
    print_ready("after it").await?;
    // All tokens are revoked. The middleware replaces this one and replays the call.
    sandbox.revoke_tokens();
    println!("a revoked token: {}", call().await?);
    // The issuer is down until the token has expired.
    sandbox.break_down(Api::Token, Fault::status(503));
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("issuer down: {}", call().await.is_err());
    print_ready("meanwhile").await?;
    println!("\n{}", http.get(format!("{health}/metrics")).send().await?.text().await?);
    Ok(())
}
