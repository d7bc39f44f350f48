//! What a health endpoint and Prometheus show while the issuer and the API fail:
//! `cargo run --example observability`, on the embedded sandbox.

mod support;

use std::{process::ExitCode, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sitecore_auth::{AuthMiddleware, Target, TokenCache};
use sitecore_sandbox::{Api, Fault, Sandbox};
use support::{Cloud, Kind, Result};
use tokio::net::TcpListener;

/// Ready if there is a usable token, or if the last refresh did not fail. Not ready must not mean
/// *restart*, because a restarted process has no token either. If only ready processes receive
/// traffic, spawn `keep_fresh`: otherwise nothing starts a refresh.
async fn ready(State((cache, _)): State<Watched>) -> (StatusCode, String) {
    let is_ready = cache.current().is_some() || cache.status().last_error().is_none();
    let status = cache.status();
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
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
async fn main() -> ExitCode {
    support::exit(run().await)
}

#[expect(clippy::disallowed_methods, reason = "a health endpoint of the program's own")]
async fn run() -> Result<()> {
    let prometheus = PrometheusBuilder::new().set_buckets(&[0.1, 1.0, 10.0])?.install_recorder()?;
    let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(3)).start();
    let cloud = Cloud::of(sandbox.await?)?;
    let sandbox = cloud.sandbox.as_ref().ok_or("the sandbox")?;
    // The name identifies this cache in logs and metrics.
    let cache = TokenCache::builder(cloud.tokens(Kind::Organization)?).name("deploy");
    let cache = cache.build()?;
    let auth =
        AuthMiddleware::builder(cache.clone()).target(cloud.at(Target::deploy(), Api::Deploy)?);
    let client = auth.build()?.into_client(reqwest::Client::builder())?;
    let projects = cloud.url(Api::Deploy, "/api/projects/v1")?;

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
