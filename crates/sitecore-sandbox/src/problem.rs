//! Errors as RFC 9457 has them, and the bearer check, both shared by the REST APIs.

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

/// Who may come in: an API, and the prefix of a scope that opens it.
#[derive(Clone)]
struct Door {
    world: Arc<World>,
    api: Api,
    scope: &'static str,
}

/// Lets no call in without a token that carries a scope with this prefix.
pub(crate) fn guarded(router: Router, world: Arc<World>, api: Api, scope: &'static str) -> Router {
    let door = Door { world, api, scope };
    router.layer(from_fn_with_state(door, gate))
}

async fn gate(State(door): State<Door>, request: Request, next: Next) -> Response {
    let refusal = match door.world.claims(request.headers()) {
        Some(claims) if claims.has_scope_like(door.scope) => return next.run(request).await,
        Some(_) => problem(StatusCode::FORBIDDEN),
        // ASP.NET's bearer handler: the reason in the challenge, and no body.
        None => {
            let challenge = [(WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#)];
            (StatusCode::UNAUTHORIZED, challenge).into_response()
        }
    };
    door.world.count_refusal(door.api);
    refusal
}
