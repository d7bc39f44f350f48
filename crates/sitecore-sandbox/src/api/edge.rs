//! Experience Edge's Admin API and Token API, which require the JWT.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::{delete, get, put},
};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{
    delivery,
    problem::{Input, found_or_404, guarded, problem},
};
use crate::cloud::{Api, Cloud, EdgeKey, SCOPES, Wanted};

/// The prefix of the scopes that only Edge administration clients have.
const SCOPE: &str = "edge.";

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
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
        .with_state(Arc::clone(&cloud));
    guarded(administration, Arc::clone(&cloud), Api::Edge, SCOPE)
        .merge(delivery::router(cloud))
        .fallback(async || problem(StatusCode::NOT_FOUND))
}

async fn read_settings(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    Json(cloud.edge_settings.lock().clone())
}

async fn replace_settings(
    State(cloud): State<Arc<Cloud>>,
    Input(settings): Input<Value>,
) -> Response {
    let mut current = cloud.edge_settings.lock();
    let is_known = |(name, value): (&String, &Value)| can_replace(&current[name], value);
    if !settings.as_object().is_some_and(|settings| settings.iter().all(is_known)) {
        return problem(StatusCode::BAD_REQUEST);
    }
    // A setting that is left out keeps its value. What Edge does then is not documented.
    for (name, value) in settings.as_object().into_iter().flatten() {
        current[name] = value.clone();
    }
    StatusCode::ACCEPTED.into_response()
}

/// Returns `true` if a setting may get this value: a switch, or a time such as `04:00:00` or
/// `1.04:00:00`.
fn can_replace(setting: &Value, value: &Value) -> bool {
    match (setting, value) {
        (Value::Bool(_), Value::Bool(_)) => true,
        (Value::String(_), Value::String(time)) => {
            let (days, time) = time.split_once('.').unwrap_or(("0", time));
            let parts: Vec<_> = time.split(':').collect();
            let is_number =
                |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            parts.len() == 3 && parts.iter().chain([&days]).all(is_number)
        }
        _ => false,
    }
}

/// A JSON Patch operation (RFC 6902). Only `replace` is supported.
#[derive(Deserialize)]
struct Operation {
    op: String,
    /// In lower case.
    path: String,
    #[serde(default)]
    value: Value,
}

async fn patch_settings(
    State(cloud): State<Arc<Cloud>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json-patch+json") {
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let Ok(patch) = serde_json::from_slice::<Vec<Operation>>(&body) else {
        return problem(StatusCode::BAD_REQUEST);
    };
    let mut settings = cloud.edge_settings.lock();
    let mut changed = settings.clone();
    for Operation { op, path, value } in patch {
        let members = changed.as_object_mut().into_iter().flatten();
        let mut members = members.filter(|(name, _)| format!("/{}", name.to_lowercase()) == path);
        match members.next() {
            Some((_, member)) if op == "replace" && can_replace(member, &value) => *member = value,
            _ => return problem(StatusCode::BAD_REQUEST),
        }
    }
    settings.clone_from(&changed);
    Json(changed).into_response()
}

async fn clear_cache(State(cloud): State<Arc<Cloud>>) -> StatusCode {
    *cloud.cache_clears.lock() += 1;
    StatusCode::ACCEPTED
}

/// Deletes all published content.
async fn delete_content(State(cloud): State<Arc<Cloud>>) -> StatusCode {
    cloud.published.lock().remove("/sitecore");
    StatusCode::ACCEPTED
}

async fn list_webhooks(State(cloud): State<Arc<Cloud>>) -> Json<Vec<Value>> {
    Json(cloud.webhooks.lock().clone())
}

/// The part of a webhook that the caller determines.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewWebhook {
    label: String,
    uri: String,
    #[serde(default = "post")]
    method: String,
    #[serde(default)]
    headers: Value,
    #[serde(default)]
    body: Value,
    created_by: Option<String>,
    #[serde(default = "on_end")]
    execution_mode: String,
    #[serde(default)]
    disabled: bool,
}

fn post() -> String {
    "POST".to_owned()
}

fn on_end() -> String {
    "OnEnd".to_owned()
}

impl NewWebhook {
    /// Describes the webhook as the API does; `None` if it is invalid.
    fn shown(self, id: &str) -> Option<Value> {
        let is_valid = Url::parse(&self.uri).is_ok()
            && matches!(self.method.as_str(), "GET" | "POST")
            && matches!(self.execution_mode.as_str(), "OnEnd" | "OnUpdate");
        is_valid.then(|| {
            json!({
                "id": id, "tenantId": "sandbox", "label": self.label, "uri": self.uri,
                "method": self.method, "headers": self.headers, "body": self.body,
                "createdBy": self.created_by, "created": "2026-01-07T09:30:00Z",
                "executionMode": self.execution_mode, "lastRuns": [], "disabled": self.disabled,
            })
        })
    }
}

async fn create_webhook(
    State(cloud): State<Arc<Cloud>>,
    Input(webhook): Input<NewWebhook>,
) -> Response {
    // Shaped like a UUID.
    let id = format!("00000000-0000-4000-8000-{:012}", cloud.serial());
    let Some(webhook) = webhook.shown(&id) else { return problem(StatusCode::BAD_REQUEST) };
    cloud.webhooks.lock().push(webhook.clone());
    (StatusCode::CREATED, Json(webhook)).into_response()
}

async fn webhook(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    found_or_404(cloud.webhooks.lock().iter().find(|webhook| webhook["id"] == id).cloned())
}

async fn replace_webhook(
    State(cloud): State<Arc<Cloud>>,
    Path(id): Path<String>,
    Input(webhook): Input<NewWebhook>,
) -> Response {
    let Some(webhook) = webhook.shown(&id) else { return problem(StatusCode::BAD_REQUEST) };
    let mut webhooks = cloud.webhooks.lock();
    let stored = webhooks.iter_mut().find(|stored| stored["id"] == id);
    changed(stored.map(|stored| *stored = webhook).is_some())
}

async fn delete_webhook(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    let mut webhooks = cloud.webhooks.lock();
    let before = webhooks.len();
    webhooks.retain(|webhook| webhook["id"] != id);
    changed(webhooks.len() < before)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NewKey {
    created_by: String,
    label: String,
    scopes: Vec<String>,
}

/// Creates a key and returns it as plain text.
async fn create_key(State(cloud): State<Arc<Cloud>>, Input(wanted): Input<NewKey>) -> Response {
    let includes = |scope: &&str| wanted.scopes.iter().any(|wanted| wanted == scope);
    if !SCOPES.iter().all(includes) {
        return problem(StatusCode::BAD_REQUEST);
    }
    let key = cloud.edge_keys.create(&wanted.label, &wanted.created_by);
    (StatusCode::CREATED, key).into_response()
}

/// Lists keys, page by page.
async fn list_keys(
    State(cloud): State<Arc<Cloud>>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let values = |wanted: &'static str| {
        let parameters = parameters.iter();
        parameters
            .filter(move |(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
    };
    let number = |name, default| values(name).next().map_or(Ok(default), |value| value.parse());
    let (Ok(size), Ok(page)) = (number("pagesize", 20_usize), number("pagenumber", 1_usize)) else {
        return problem(StatusCode::BAD_REQUEST);
    };
    if size == 0 || page == 0 {
        return problem(StatusCode::BAD_REQUEST);
    }
    let keys = cloud.edge_keys.list(&Wanted {
        label: values("label").next().cloned(),
        created_by: values("createdby").next().cloned(),
        scopes: values("scopes").cloned().collect(),
        without_revoked: values("filterrevoked").any(|value| value.eq_ignore_ascii_case("true")),
    });
    let (total, pages) = (keys.len(), keys.len().div_ceil(size));
    let keys: Vec<_> = keys.into_iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    let page = json!({
        "totalCount": total, "pageSize": size, "currentPage": page, "totalPages": pages,
        "hasNext": page < pages, "hasPrevious": page > 1, "keys": keys,
    });
    Json(page).into_response()
}

async fn key_by_hash(State(cloud): State<Arc<Cloud>>, Path(hash): Path<String>) -> Response {
    found_or_404(cloud.edge_keys.find(|key| key.has_hash(&hash)))
}

async fn key_by_token(State(cloud): State<Arc<Cloud>>, headers: HeaderMap) -> Response {
    let text = token_in(&headers);
    found_or_404(cloud.edge_keys.find(|key| key.has_text(text)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewName {
    new_name: String,
}

async fn rename_key(
    State(cloud): State<Arc<Cloud>>,
    Path(hash): Path<String>,
    Input(wanted): Input<NewName>,
) -> Response {
    let change = |key: &mut EdgeKey| key.rename(&wanted.new_name);
    changed(cloud.edge_keys.change(|key| key.has_hash(&hash), change))
}

async fn rename_key_by_token(
    State(cloud): State<Arc<Cloud>>,
    headers: HeaderMap,
    Input(wanted): Input<NewName>,
) -> Response {
    let text = token_in(&headers);
    let change = |key: &mut EdgeKey| key.rename(&wanted.new_name);
    changed(cloud.edge_keys.change(|key| key.has_text(text), change))
}

async fn revoke_key(State(cloud): State<Arc<Cloud>>, Path(hash): Path<String>) -> Response {
    changed(cloud.edge_keys.change(|key| key.has_hash(&hash), EdgeKey::revoke))
}

async fn revoke_key_by_token(State(cloud): State<Arc<Cloud>>, headers: HeaderMap) -> Response {
    let text = token_in(&headers);
    changed(cloud.edge_keys.change(|key| key.has_text(text), EdgeKey::revoke))
}

fn token_in(headers: &HeaderMap) -> &str {
    let value = headers.get("x-gql-token").and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn changed(found: bool) -> Response {
    match found {
        true => StatusCode::NO_CONTENT.into_response(),
        false => problem(StatusCode::NOT_FOUND),
    }
}
