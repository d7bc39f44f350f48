//! The issuer by HTTP over loopback, for rivals that accept no other source.
//!
//! Paused time jumps when no socket is ready, which must not happen while a response is on its way.
//! Therefore both ends run on one thread: Linux delivers loopback data within the write call, and
//! Tokio polls its sockets before it advances the time.

use std::sync::Arc;

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::world::{DAY, World};

/// Starts serving on the current runtime and returns the token URL.
pub(super) async fn serve(world: &Arc<World>) -> String {
    let router = Router::new().route("/token", post(respond)).with_state(Arc::clone(world));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/token")
}

async fn respond(State(world): State<Arc<World>>) -> Result<Json<Value>, StatusCode> {
    let token = world.request_token().await;
    let token = token.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(Json(json!({"access_token": token, "token_type": "Bearer", "expires_in": DAY})))
}
