//! What a health endpoint and Prometheus see of a cache, while its issuer and its API are in trouble:
//! `cargo run --example observability`. On the embedded sandbox alone.

mod support;

use std::{process::ExitCode, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use reqwest_middleware::ClientBuilder;
use sitecore_auth::{AuthMiddleware, Target, TokenCache};
use sitecore_sandbox::{Api, Fault, Sandbox};
use support::{Cloud, Kind, Result};
use tokio::net::TcpListener;

/// Ready while calls get a token at once, or nothing is known against it. A failure is no reason to restart the process:
/// that would begin without a token. Where calls come only to who is ready, spawn `keep_fresh`, or nobody would ask.
async fn ready(State((cache, _)): State<Watched>) -> (StatusCode, String) {
    let is_well = cache.current().is_some() || cache.status().last_error().is_none();
    let status = cache.status();
    let code = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let why = status.last_error().map(|error| format!("; {error}"));
    let said = format!(
        "{:?}, {} grants so far{}",
        status.freshness(),
        status.token_requests(),
        why.unwrap_or_default()
    );
    (code, said)
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
    // The name is what tells it from others in the program.
    let cache = TokenCache::builder(cloud.tokens(Kind::Organization)?).name("deploy");
    let cache = cache.build()?;
    let auth =
        AuthMiddleware::builder(cache.clone()).target(cloud.at(Target::deploy(), Api::Deploy)?);
    let client = ClientBuilder::new(cloud.http()?).with(auth.build()?).build();
    let projects = cloud.url(Api::Deploy, "/api/projects/v1")?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let health = format!("http://{}", listener.local_addr()?);
    let app = Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state((cache, prometheus));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let http = cloud.http()?;
    let say_ready = async |when: &str| {
        let answer = http.get(format!("{health}/ready")).send().await?;
        println!("{when}: {} {}", answer.status(), answer.text().await?);
        Result::<()>::Ok(())
    };
    let call = async || {
        let answer = client.get(projects.clone()).send().await;
        answer.map(|answer| answer.status())
    };

    say_ready("before the first call").await?;
    // The issuer stumbles once: the refresh tries again, and the caller gets a token.
    sandbox.script(Api::Token, [Fault::status(503)]);
    call().await?;
    say_ready("after it").await?;
    // All tokens are revoked: the layer has this one replaced, and sends the call once more.
    sandbox.revoke_tokens();
    println!("a revoked token: {}", call().await?);
    // The issuer is down until the token is over.
    sandbox.break_down(Api::Token, Fault::status(503));
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("issuer down: {}", call().await.is_err());
    say_ready("meanwhile").await?;
    println!("\n{}", http.get(format!("{health}/metrics")).send().await?.text().await?);
    Ok(())
}
