//! Experience Edge's Admin API and Token API, which require the JWT.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{delete, get, put},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, delivery,
    edge_keys::EdgeKey,
    problem::{guarded, problem},
    sandbox::World,
};

/// The prefix of the scopes that only Edge administration clients have.
const SCOPE: &str = "edge.";

/// Returns the initial settings.
pub(crate) fn settings() -> Value {
    json!({
        "contentcacheautoclear": true, "contentcachettl": "04:00:00",
        "mediacacheautoclear": true, "mediacachettl": "04:00:00", "tenantcacheautoclear": true,
    })
}

pub(crate) fn router(world: Arc<World>) -> Router {
    let administration = Router::new()
        .route(
            "/api/admin/v1/settings",
            get(read_settings).put(replace_settings).patch(patch_settings),
        )
        .route("/api/admin/v1/cache", delete(clear_cache))
        .route("/api/admin/v1/content", delete(delete_content))
        .route("/api/admin/v1/webhooks", get(list_webhooks).post(create_webhook))
        .route(
            "/api/admin/v1/webhooks/{id}",
            get(webhook).put(replace_webhook).delete(delete_webhook),
        )
        .route("/api/apikey/v1", get(list_keys).post(create_key))
        .route("/api/apikey/v1/token", get(key_by_token))
        .route("/api/apikey/v1/{hash}", get(key_by_hash))
        .route("/api/apikey/v1/renamebyhash/{hash}", put(rename_key))
        .route("/api/apikey/v1/renamebytoken", put(rename_key_by_token))
        .route("/api/apikey/v1/revokebyhash/{hash}", put(revoke_key))
        .route("/api/apikey/v1/revokebytoken", put(revoke_key_by_token))
        .with_state(Arc::clone(&world));
    guarded(administration, Arc::clone(&world), Api::Edge, SCOPE)
        .merge(delivery::router(world))
        .fallback(async || problem(StatusCode::NOT_FOUND))
}

async fn read_settings(State(world): State<Arc<World>>) -> Json<Value> {
    Json(world.edge_settings.lock().clone())
}

async fn replace_settings(
    State(world): State<Arc<World>>,
    Json(settings): Json<Value>,
) -> Response {
    if !settings.is_object() {
        return problem(StatusCode::BAD_REQUEST);
    }
    *world.edge_settings.lock() = settings;
    StatusCode::NO_CONTENT.into_response()
}

/// A JSON Patch operation (RFC 6902).
#[derive(Deserialize)]
struct Operation {
    op: String,
    path: String,
    #[serde(default)]
    value: Value,
}

async fn patch_settings(
    State(world): State<Arc<World>>,
    Json(patch): Json<Vec<Operation>>,
) -> Response {
    let mut settings = world.edge_settings.lock();
    let mut changed = settings.clone();
    for Operation { op, path, value } in patch {
        let member = path.trim_start_matches('/').to_ascii_lowercase();
        if !matches!(op.as_str(), "replace" | "add") || changed.get(&member).is_none() {
            return problem(StatusCode::BAD_REQUEST);
        }
        changed[member.as_str()] = value;
    }
    *settings = changed;
    StatusCode::NO_CONTENT.into_response()
}

async fn clear_cache(State(world): State<Arc<World>>) -> StatusCode {
    *world.cache_clears.lock() += 1;
    StatusCode::ACCEPTED
}

/// Deletes all published content.
async fn delete_content(State(world): State<Arc<World>>) -> StatusCode {
    world.published.lock().remove("/sitecore");
    StatusCode::ACCEPTED
}

async fn list_webhooks(State(world): State<Arc<World>>) -> Json<Vec<Value>> {
    Json(world.webhooks.lock().iter().flatten().cloned().collect())
}

async fn create_webhook(
    State(world): State<Arc<World>>,
    Json(mut webhook): Json<Value>,
) -> Response {
    if webhook["uri"].as_str().is_none_or(str::is_empty) {
        return problem(StatusCode::BAD_REQUEST);
    }
    let mut webhooks = world.webhooks.lock();
    webhook["id"] = json!(webhooks.len().to_string());
    webhooks.push(Some(webhook.clone()));
    (StatusCode::CREATED, Json(webhook)).into_response()
}

async fn webhook(State(world): State<Arc<World>>, Path(id): Path<usize>) -> Response {
    match world.webhooks.lock().get(id) {
        Some(Some(webhook)) => Json(webhook.clone()).into_response(),
        _ => problem(StatusCode::NOT_FOUND),
    }
}

async fn replace_webhook(
    State(world): State<Arc<World>>,
    Path(id): Path<usize>,
    Json(mut webhook): Json<Value>,
) -> Response {
    match world.webhooks.lock().get_mut(id) {
        Some(Some(stored)) => {
            webhook["id"] = json!(id.to_string());
            *stored = webhook;
            StatusCode::NO_CONTENT.into_response()
        }
        _ => problem(StatusCode::NOT_FOUND),
    }
}

async fn delete_webhook(State(world): State<Arc<World>>, Path(id): Path<usize>) -> Response {
    match world.webhooks.lock().get_mut(id).and_then(Option::take) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => problem(StatusCode::NOT_FOUND),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NewKey {
    created_by: String,
    label: String,
    scopes: Vec<String>,
}

/// Creates a key and returns it as plain text.
async fn create_key(State(world): State<Arc<World>>, Json(wanted): Json<NewKey>) -> Response {
    let includes = |scope: &str| wanted.scopes.iter().any(|wanted| wanted == scope);
    if !includes("audience-delivery") || !includes("content-#everything#") {
        return problem(StatusCode::BAD_REQUEST);
    }
    let key = world.edge_keys.create(&wanted.label, &wanted.created_by);
    (StatusCode::CREATED, key).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    label: Option<String>,
    #[serde(default)]
    filter_revoked: bool,
}

async fn list_keys(
    State(world): State<Arc<World>>,
    Query(wanted): Query<Wanted>,
) -> Json<Vec<Value>> {
    Json(world.edge_keys.list(wanted.label.as_deref(), wanted.filter_revoked))
}

async fn key_by_hash(State(world): State<Arc<World>>, Path(hash): Path<String>) -> Response {
    shown(world.edge_keys.find(|key| key.has_hash(&hash)))
}

async fn key_by_token(State(world): State<Arc<World>>, headers: HeaderMap) -> Response {
    let text = token_in(&headers);
    shown(world.edge_keys.find(|key| key.has_text(text)))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NewLabel {
    label: String,
}

async fn rename_key(
    State(world): State<Arc<World>>,
    Path(hash): Path<String>,
    Json(wanted): Json<NewLabel>,
) -> Response {
    let change = |key: &mut EdgeKey| key.rename(&wanted.label);
    changed(world.edge_keys.change(|key| key.has_hash(&hash), change))
}

async fn rename_key_by_token(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
    Json(wanted): Json<NewLabel>,
) -> Response {
    let text = token_in(&headers);
    let change = |key: &mut EdgeKey| key.rename(&wanted.label);
    changed(world.edge_keys.change(|key| key.has_text(text), change))
}

async fn revoke_key(State(world): State<Arc<World>>, Path(hash): Path<String>) -> Response {
    changed(world.edge_keys.change(|key| key.has_hash(&hash), EdgeKey::revoke))
}

async fn revoke_key_by_token(State(world): State<Arc<World>>, headers: HeaderMap) -> Response {
    let text = token_in(&headers);
    changed(world.edge_keys.change(|key| key.has_text(text), EdgeKey::revoke))
}

fn token_in(headers: &HeaderMap) -> &str {
    let value = headers.get("x-gql-token").and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn shown(key: Option<Value>) -> Response {
    match key {
        Some(key) => Json(key).into_response(),
        None => problem(StatusCode::NOT_FOUND),
    }
}

fn changed(found: bool) -> Response {
    match found {
        true => StatusCode::NO_CONTENT.into_response(),
        false => problem(StatusCode::NOT_FOUND),
    }
}
