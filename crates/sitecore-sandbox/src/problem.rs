//! RFC 9457 error responses and the bearer token check, shared by the REST APIs.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use crate::{Api, sandbox::World};

pub(crate) fn problem(status: StatusCode) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
    });
    let content_type = [(CONTENT_TYPE, "application/problem+json")];
    (status, content_type, body.to_string()).into_response()
}

/// An API and the prefix of the scopes that give access to it.
#[derive(Clone)]
struct Door {
    world: Arc<World>,
    api: Api,
    scope: &'static str,
}

/// Rejects all calls except those whose token has a scope with this prefix.
pub(crate) fn guarded(router: Router, world: Arc<World>, api: Api, scope: &'static str) -> Router {
    let door = Door { world, api, scope };
    router.layer(from_fn_with_state(door, require_scope))
}

async fn require_scope(State(door): State<Door>, request: Request, next: Next) -> Response {
    let rejection = match door.world.claims(request.headers()) {
        Some(claims) if claims.has_scope_like(door.scope) => return next.run(request).await,
        Some(_) => problem(StatusCode::FORBIDDEN),
        // Like ASP.NET's bearer handler: a challenge with the reason, and no body.
        None => {
            let challenge = [(WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#)];
            (StatusCode::UNAUTHORIZED, challenge).into_response()
        }
    };
    door.world.count_rejection(door.api);
    rejection
}
