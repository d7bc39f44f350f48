//! The Deploy API: projects, environments, deployments, automation clients and Edge keys. Its
//! errors are `ProblemDetails`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, Client, ClientKind,
    problem::{guarded, problem},
    sandbox::World,
};

/// The prefix of the scopes that only organization automation clients have.
const SCOPE: &str = "xmclouddeploy.";

const PROJECT: &str = "4Jr2mXUdsQpVvVvGkmwbJu";

/// How many status requests it takes until a deployment is complete.
const LOOKS: u64 = 2;

pub(crate) fn router(world: Arc<World>) -> Router {
    let router = Router::new()
        .route("/api/organizations/v1", get(async || Json(organizations())))
        .route("/api/projects/v1", get(async || Json(projects())))
        .route("/api/projects/v1/{id}", get(async |Path(id): Path<String>| one(projects(), &id)))
        .route("/api/projects/v1/{id}/environments", get(environments_of))
        .route("/api/environments/v1", get(async || Json(environments())))
        .route("/api/environments/v2", get(page_of_environments))
        .route(
            "/api/environments/v1/{id}",
            get(async |Path(id): Path<String>| one(environments(), &id)),
        )
        .route("/api/environments/v1/{id}/obtain-edge-token", get(obtain_edge_token))
        .route(
            "/api/environments/v1/{id}/deployments",
            post(create_deployment_of).get(deployments_of),
        )
        .route("/api/deployments/v1", post(create_deployment).get(list_deployments))
        .route("/api/deployments/v1/{id}", get(deployment))
        .route("/api/deployments/v1/{id}/deploy", post(start_deployment))
        .route("/api/clients/v1", get(list_clients))
        .route("/api/clients/v1/{kind}", post(create_client))
        .fallback(async || problem(StatusCode::NOT_FOUND))
        .with_state(Arc::clone(&world));
    guarded(router, world, Api::Deploy, SCOPE)
}

async fn environments_of(Path(id): Path<String>) -> Response {
    if find(&projects(), &id).is_none() {
        return problem(StatusCode::NOT_FOUND);
    }
    let mut environments = environments();
    environments.retain(|environment| environment["projectId"] == id);
    Json(environments).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default = "first")]
    page_number: usize,
    #[serde(default = "ten")]
    page_size: usize,
}

fn first() -> usize {
    1
}

fn ten() -> usize {
    10
}

async fn page_of_environments(Query(page): Query<Page>) -> Response {
    if page.page_number == 0 || !(1..=100).contains(&page.page_size) {
        return problem(StatusCode::BAD_REQUEST);
    }
    let all = environments();
    let total = all.len();
    let skipped = (page.page_number - 1).saturating_mul(page.page_size);
    let data: Vec<_> = all.into_iter().skip(skipped).take(page.page_size).collect();
    let page = json!({ "totalCount": total, "pageNumber": page.page_number, "pageSize": page.page_size, "data": data });
    Json(page).into_response()
}

async fn obtain_edge_token(State(world): State<Arc<World>>, Path(id): Path<String>) -> Response {
    if find(&environments(), &id).is_none() {
        return problem(StatusCode::NOT_FOUND);
    }
    let key = world.edge_keys.of_environment(&id);
    let url = format!("{}api/graphql/v1", world.edge);
    Json(json!({ "apiKey": key, "edgeUrl": url })).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewDeployment {
    environment_id: String,
}

async fn create_deployment(
    State(world): State<Arc<World>>,
    Json(wanted): Json<NewDeployment>,
) -> Response {
    match find(&environments(), &wanted.environment_id) {
        Some(_) => made(&world, wanted.environment_id),
        None => problem(StatusCode::BAD_REQUEST),
    }
}

async fn create_deployment_of(State(world): State<Arc<World>>, Path(id): Path<String>) -> Response {
    match find(&environments(), &id) {
        Some(_) => made(&world, id),
        None => problem(StatusCode::NOT_FOUND),
    }
}

fn made(world: &World, environment_id: String) -> Response {
    let mut deployments = world.deployments.lock();
    let deployment = Deployment {
        id: format!("deployment{:012}", deployments.len() + 1),
        environment_id,
        looks_left: None,
    };
    let shown = deployment.shown();
    deployments.push(deployment);
    (StatusCode::CREATED, Json(shown)).into_response()
}

async fn deployments_of(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
) -> Json<Vec<Value>> {
    let deployments = world.deployments.lock();
    let of_it = deployments.iter().filter(|deployment| deployment.environment_id == id);
    Json(of_it.map(Deployment::shown).collect())
}

async fn start_deployment(State(world): State<Arc<World>>, Path(id): Path<String>) -> Response {
    let mut deployments = world.deployments.lock();
    match deployments.iter_mut().find(|deployment| deployment.id == id) {
        Some(deployment) if deployment.looks_left.is_none() => {
            deployment.looks_left = Some(LOOKS);
            (StatusCode::ACCEPTED, Json(deployment.shown())).into_response()
        }
        Some(_) => problem(StatusCode::CONFLICT),
        None => problem(StatusCode::NOT_FOUND),
    }
}

async fn deployment(State(world): State<Arc<World>>, Path(id): Path<String>) -> Response {
    let mut deployments = world.deployments.lock();
    let Some(deployment) = deployments.iter_mut().find(|deployment| deployment.id == id) else {
        return problem(StatusCode::NOT_FOUND);
    };
    deployment.looks_left = deployment.looks_left.map(|looks| looks.saturating_sub(1));
    Json(deployment.shown()).into_response()
}

async fn list_deployments(State(world): State<Arc<World>>) -> Json<Vec<Value>> {
    Json(world.deployments.lock().iter().map(Deployment::shown).collect())
}

/// A deployment, which progresses with each status request.
pub(crate) struct Deployment {
    id: String,
    environment_id: String,
    /// `None` until it is started.
    looks_left: Option<u64>,
}

impl Deployment {
    fn shown(&self) -> Value {
        let (status, done) = match self.looks_left {
            None => ("Queued", false),
            Some(0) => ("Complete", true),
            Some(_) => ("InProgress", false),
        };
        json!({ "id": self.id, "environmentId": self.environment_id, "status": status, "completed": done })
    }
}

#[derive(Deserialize)]
struct NewClient {
    name: String,
}

async fn list_clients(State(world): State<Arc<World>>) -> Json<Vec<Value>> {
    let clients = world.clients.lock();
    Json(
        clients
            .iter()
            .map(|client| json!({ "id": client.id(), "clientId": client.id() }))
            .collect(),
    )
}

/// Creates an automation client. Only this response contains its secret.
async fn create_client(
    State(world): State<Arc<World>>,
    Path(kind): Path<String>,
    Json(wanted): Json<NewClient>,
) -> Response {
    let kind = match kind.as_str() {
        "environment" => ClientKind::Environment,
        "organization" => ClientKind::Organization,
        "edge" => ClientKind::EdgeAdministration,
        _ => return problem(StatusCode::NOT_FOUND),
    };
    if wanted.name.trim().is_empty() {
        return problem(StatusCode::BAD_REQUEST);
    }
    let mut clients = world.clients.lock();
    let id = format!("sandbox-client-{}", clients.len() + 1);
    let client = Client::new(kind, &id, format!("{id}-secret"));
    let shown = json!({ "id": id, "name": wanted.name, "clientId": client.id(), "clientSecret": client.secret() });
    clients.push(client);
    (StatusCode::CREATED, Json(shown)).into_response()
}

fn one(list: Vec<Value>, id: &str) -> Response {
    match find(&list, id) {
        Some(found) => Json(found).into_response(),
        None => problem(StatusCode::NOT_FOUND),
    }
}

fn find<'a>(list: &'a [Value], id: &str) -> Option<&'a Value> {
    list.iter().find(|entry| entry["id"] == id)
}

fn organizations() -> Vec<Value> {
    vec![json!({ "id": "org_sandbox", "name": "acme", "displayName": "Acme" })]
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
