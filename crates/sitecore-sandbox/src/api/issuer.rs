//! The issuer: a token endpoint that responds like Auth0's, its public keys, and discovery.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::cloud::{Api, CM_AUDIENCE, Cloud};

/// The lifetime of tokens for the Sitecore CLI's audience.
const CM_LIFETIME: Duration = Duration::from_secs(900);

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    Router::new()
        .route("/oauth/token", post(token))
        .route(
            "/.well-known/jwks.json",
            get(async |State(cloud): State<Arc<Cloud>>| Json(cloud.keys.jwks())),
        )
        .route("/.well-known/openid-configuration", get(discovery))
        .with_state(cloud)
}

async fn discovery(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    let issuer = cloud.issuer();
    Json(json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}oauth/token"),
        "jwks_uri": format!("{issuer}.well-known/jwks.json"),
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "response_types_supported": ["token"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
}

/// Handles a token request with the client credentials grant (RFC 6749 §4.4).
async fn token(State(cloud): State<Arc<Cloud>>, headers: HeaderMap, body: Bytes) -> Response {
    match grant(&cloud, &parameters(&headers, &body)) {
        Ok(response) => {
            cloud.count_granted();
            let no_store = [("cache-control", "no-store"), ("pragma", "no-cache")];
            (no_store, Json(response)).into_response()
        }
        Err((status, code, description)) => {
            cloud.count_rejection(Api::Token);
            (status, Json(json!({ "error": code, "error_description": description })))
                .into_response()
        }
    }
}

type Refusal = (StatusCode, &'static str, String);

fn grant(cloud: &Cloud, parameters: &HashMap<String, String>) -> Result<Value, Refusal> {
    let given =
        |name: &str| parameters.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let denied = |description: String| (StatusCode::FORBIDDEN, "access_denied", description);
    match given("grant_type") {
        Some("client_credentials") => {}
        Some(other) => {
            return Err((
                StatusCode::FORBIDDEN,
                "unauthorized_client",
                format!("Grant type '{other}' not allowed for the client."),
            ));
        }
        None => {
            return Err((
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "Missing required parameter: grant_type".to_owned(),
            ));
        }
    }
    let id = given("client_id").ok_or_else(|| {
        (StatusCode::UNAUTHORIZED, "invalid_client", "Missing client_id".to_owned())
    })?;
    let clients = cloud.clients.lock();
    let known = clients
        .iter()
        .find(|client| client.id() == id && Some(client.secret()) == given("client_secret"));
    let client = known
        .ok_or_else(|| (StatusCode::UNAUTHORIZED, "access_denied", "Unauthorized".to_owned()))?;
    let audience = given("audience").ok_or_else(|| {
        denied(
            "No audience parameter was provided, and no default audience has been configured"
                .to_owned(),
        )
    })?;
    if audience != cloud.audience && audience != CM_AUDIENCE {
        return Err(denied(format!("Service not found: {audience}")));
    }
    let granted = client.scopes();
    let scopes: Vec<_> = match given("scope") {
        Some(requested) => requested.split_ascii_whitespace().collect(),
        None => granted.iter().map(String::as_str).collect(),
    };
    let missing: Vec<_> =
        scopes.iter().filter(|&&scope| !granted.iter().any(|own| own == scope)).copied().collect();
    if !missing.is_empty() {
        return Err(denied(format!("Client has not been granted scopes: {}", missing.join(", "))));
    }
    let scope = scopes.join(" ");
    let lifetime = match audience {
        CM_AUDIENCE => cloud.token_lifetime().min(CM_LIFETIME),
        _ => cloud.token_lifetime(),
    };
    Ok(json!({
        "access_token": cloud.keys.sign(client, cloud.issuer(), audience, &scope, lifetime),
        "scope": scope,
        "expires_in": lifetime.as_secs(),
        "token_type": "Bearer",
    }))
}

/// Reads the parameters as a form or as JSON, because Auth0 accepts both.
fn parameters(headers: &HeaderMap, body: &[u8]) -> HashMap<String, String> {
    let content_type =
        headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.starts_with("application/json") {
        // Auth0 ignores parameters that it does not know, whatever their type.
        let members: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let texts = members.into_iter().filter_map(|(name, value)| match value {
            Value::String(text) => Some((name, text)),
            _ => None,
        });
        texts.collect()
    } else {
        form_urlencoded::parse(body).into_owned().collect()
    }
}
