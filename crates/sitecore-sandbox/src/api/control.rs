//! Faults, counts and settings over HTTP, for tests in any language.
//!
//! These paths are on the issuer's origin. Their calls are not counted.

use std::{error::Error, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post, put},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cloud::{Api, Cloud, Fault, parse_duration};

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    Router::new()
        .route("/_sandbox", get(counts))
        .route("/_sandbox/faults", post(add_faults).delete(heal))
        .route("/_sandbox/revoke-tokens", post(revoke_tokens))
        .route("/_sandbox/revoke-edge-keys", post(revoke_edge_keys))
        .route("/_sandbox/rotate-keys", post(rotate_keys))
        .route("/_sandbox/token-lifetime", put(set_token_lifetime))
        .with_state(cloud)
}

async fn counts(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    let apis = Api::ALL.map(|api| {
        let counts = json!({ "calls": cloud.calls(api), "rejections": cloud.rejections(api) });
        (api.name().to_owned(), counts)
    });
    Json(json!({ "tokensGranted": cloud.tokens_granted(), "apis": Map::from_iter(apis) }))
}

/// A fault for the API's next calls, or for all calls if `times` is null.
#[derive(Deserialize)]
struct NewFault {
    api: String,
    fault: String,
    #[serde(default = "once")]
    times: Option<usize>,
}

fn once() -> Option<usize> {
    Some(1)
}

async fn add_faults(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Response {
    let add = || -> Result<(), Box<dyn Error>> {
        let wanted: NewFault = serde_json::from_slice(&body)?;
        let api = Api::named(&wanted.api).ok_or("invalid API")?;
        cloud.add_faults(api, wanted.fault.parse::<Fault>()?, wanted.times);
        Ok(())
    };
    outcome(add())
}

/// Returns an empty response, or the reason why the request was not carried out.
fn outcome(result: Result<(), Box<dyn Error>>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn heal(State(cloud): State<Arc<Cloud>>) -> StatusCode {
    Api::ALL.iter().for_each(|api| cloud.heal(*api));
    StatusCode::NO_CONTENT
}

async fn revoke_tokens(State(cloud): State<Arc<Cloud>>) -> StatusCode {
    cloud.keys.revoke_all();
    StatusCode::NO_CONTENT
}

async fn revoke_edge_keys(State(cloud): State<Arc<Cloud>>) -> StatusCode {
    cloud.edge_keys.revoke_all();
    StatusCode::NO_CONTENT
}

async fn rotate_keys(State(cloud): State<Arc<Cloud>>) -> StatusCode {
    match cloud.keys.rotate() {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[derive(Deserialize)]
struct NewLifetime {
    lifetime: String,
}

async fn set_token_lifetime(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Response {
    let set = || -> Result<(), Box<dyn Error>> {
        let wanted: NewLifetime = serde_json::from_slice(&body)?;
        let lifetime = parse_duration(&wanted.lifetime);
        cloud.set_token_lifetime(lifetime.ok_or("invalid lifetime: expected a time such as 4s")?);
        Ok(())
    };
    outcome(set())
}
