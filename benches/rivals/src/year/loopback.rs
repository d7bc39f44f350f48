//! The issuer by HTTP over loopback, for rivals that cannot be fed otherwise.
//!
//! Paused time jumps when no socket is ready, and must not do so while an answer is on its way. Hence both ends live on
//! the one thread: Linux hands on what one writes within the call, and Tokio looks at the sockets before it jumps.

use std::sync::Arc;

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{DAY, World};

/// Serves on the current runtime, and returns the token URL.
pub(super) async fn serve(world: &Arc<World>) -> String {
    let router = Router::new().route("/token", post(answer)).with_state(Arc::clone(world));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/token")
}

async fn answer(State(world): State<Arc<World>>) -> Result<Json<Value>, StatusCode> {
    let token = world.grant().await;
    let token = token.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(Json(json!({"access_token": token, "token_type": "Bearer", "expires_in": DAY})))
}
