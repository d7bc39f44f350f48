//! The Deploy API: projects and environments, read only, errors as `ProblemDetails`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{Api, sandbox::World};

/// A scope that an organization client has and an environment client lacks.
const SCOPE: &str = "xmclouddeploy.projects:manage";

const PROJECT: &str = "4Jr2mXUdsQpVvVvGkmwbJu";

pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/api/projects/v1", get(async || Json(projects())))
        .route(
            "/api/projects/v1/{id}",
            get(async |Path(id): Path<String>| one(projects(), "id", &id)),
        )
        .route("/api/projects/v1/{id}/environments", get(environments_of))
        .route("/api/environments/v1", get(async || Json(environments())))
        .route(
            "/api/environments/v1/{id}",
            get(async |Path(id): Path<String>| one(environments(), "id", &id)),
        )
        .fallback(async || problem(StatusCode::NOT_FOUND))
        .layer(from_fn_with_state(world, gate))
}

/// Lets no call in without a token that carries the scope.
async fn gate(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    match world.claims(request.headers()) {
        Some(claims) if claims.has_scope(SCOPE) => next.run(request).await,
        Some(_) => {
            world.count_refusal(Api::Deploy);
            problem(StatusCode::FORBIDDEN)
        }
        None => {
            world.count_refusal(Api::Deploy);
            // ASP.NET's bearer handler: the reason in the challenge, and no body.
            (
                StatusCode::UNAUTHORIZED,
                [(WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#)],
            )
                .into_response()
        }
    }
}

async fn environments_of(Path(id): Path<String>) -> Response {
    match find(projects(), "id", &id) {
        Some(_) => {
            let mut environments = environments();
            environments.retain(|environment| environment["projectId"] == id);
            Json(environments).into_response()
        }
        None => problem(StatusCode::NOT_FOUND),
    }
}

fn one(list: Vec<Value>, member: &str, value: &str) -> Response {
    match find(list, member, value) {
        Some(found) => Json(found).into_response(),
        None => problem(StatusCode::NOT_FOUND),
    }
}

fn find(list: Vec<Value>, member: &str, value: &str) -> Option<Value> {
    list.into_iter().find(|entry| entry[member] == value)
}

/// An error as RFC 9457 has it.
fn problem(status: StatusCode) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
    });
    let content_type = [(CONTENT_TYPE, "application/problem+json")];
    (status, content_type, body.to_string()).into_response()
}

fn projects() -> Vec<Value> {
    vec![json!({
        "id": PROJECT, "name": "acme-site", "organizationId": "org_sandbox",
        "region": "euw", "createdAt": "2026-01-07T09:00:00Z",
    })]
}

fn environments() -> Vec<Value> {
    let environment = |id: &str, name: &str, production: bool| {
        json!({
            "id": id, "name": name, "projectId": PROJECT, "projectName": "acme-site",
            "organizationId": "org_sandbox", "host": format!("xmc-acme-site-{name}.sitecorecloud.io"),
            "tenantType": if production { "prod" } else { "nonprod" },
            "provisioningStatus": 3, "createdAt": "2026-01-07T09:10:00Z",
        })
    };
    vec![
        environment("2zYj6uPbNq0sWq0Nc9rU1d", "prod", true),
        environment("6hTq8LmVx3aRk5Zs7wE2yF", "test", false),
    ]
}
