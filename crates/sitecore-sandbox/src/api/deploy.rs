//! The Deploy API: projects, environments, deployments, automation clients and Edge keys, with the
//! paths and members of Sitecore's OpenAPI documents.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_http::normalize_path::NormalizePath;

use super::problem::{Input, found_or_404, guarded, problem};
use crate::cloud::{
    Api, Client, ClientKind, Cloud, Deployment, ENVIRONMENTS, Environment, Progress, Variable,
    environment,
};

/// The prefix of the scopes that only organization automation clients have.
const SCOPE: &str = "xmclouddeploy.";

const ORGANIZATION: &str = "org_sandbox";
const PROJECT: &str = "4Jr2mXUdsQpVvVvGkmwbJu";
const CREATED: &str = "2026-01-07T09:00:00Z";
const CREATED_BY: &str = "sandbox@example.com";

/// The largest and the default number of entries on a page.
const MAX_PAGE_SIZE: usize = 50;
const PAGE_SIZE: usize = 10;

/// States of a deployment and of its parts. Their names are inferred from the members of the
/// response that counts deployments by state.
const NOT_STARTED: u8 = 0;
const IN_PROGRESS: u8 = 1;
const COMPLETED: u8 = 2;
const FAILED: u8 = 3;
const SKIPPED: u8 = 4;

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    let mut router = Router::new()
        .route("/api/organizations/v1", get(async || Json(organization())))
        .route("/api/projects/v1", get(async || Json([project()])))
        .route("/api/projects/v1/{id}", get(project_with))
        .route("/api/projects/v1/{id}/environments", get(environments_of))
        .route("/api/deployments/v1", get(list_deployments))
        .route("/api/deployments/v1/status", get(count_deployments))
        .route("/api/deployments/v1/{id}", get(deployment))
        .route("/api/deployments/v1/{id}/deploy", post(start_deployment))
        .route("/api/deployments/v1/{id}/cancel", post(cancel_deployment))
        .route("/api/clients/v1/organization", get(organization_clients))
        .route("/api/clients/v1/environment", get(environment_clients))
        // The other methods of these two paths do not exist.
        .route("/api/clients/v1/{kind}", post(create_client).delete(delete_client))
        .route("/api/environments/v1/{id}/obtain-edge-token", get(obtain_edge_token))
        .route("/api/environments/v1/{id}/variables", get(list_variables))
        .route(
            "/api/environments/v1/{id}/variables/{name}",
            post(set_variable).merge(delete(remove_variable)),
        );
    for version in ["v1", "v2"] {
        let environments = format!("/api/environments/{version}");
        router = router
            .route(&environments, get(list_environments))
            .route(&format!("{environments}/{{id}}"), get(environment_with))
            .route(
                &format!("{environments}/{{id}}/deployments"),
                get(deployments_of).post(create_deployment),
            );
    }
    let router =
        router.fallback(async || problem(StatusCode::NOT_FOUND)).with_state(Arc::clone(&cloud));
    // A slash at the end makes no difference.
    let router = NormalizePath::trim_trailing_slash(guarded(router, cloud, Api::Deploy, SCOPE));
    Router::new().fallback_service(router)
}

fn organization() -> Value {
    json!({
        "id": ORGANIZATION, "name": "acme", "region": "euw", "createdAt": CREATED,
        "createdBy": CREATED_BY, "tier": "standard", "subscriptionType": 1,
        "contentServiceEnabled": false,
    })
}

fn project() -> Value {
    let environments = ENVIRONMENTS.map(|environment| environment.id);
    json!({
        "id": PROJECT, "name": "acme-site", "organizationId": ORGANIZATION,
        "organizationName": "acme", "region": "euw", "repository": null, "repositoryId": null,
        "sourceControlIntegrationId": null, "sourceControlIntegrationName": null,
        "repositoryLinkedAt": null, "sitecoreMajorVersion": 1, "sitecoreMinorVersion": null,
        "createdAt": CREATED, "createdBy": CREATED_BY, "lastUpdatedBy": CREATED_BY,
        "lastUpdatedAt": CREATED, "environments": environments, "isLocked": false, "lockedAt": null,
    })
}

async fn project_with(Path(id): Path<String>) -> Response {
    found_or_404((id == PROJECT).then(project))
}

async fn environments_of(Path(id): Path<String>) -> Response {
    found_or_404((id == PROJECT).then(|| json!(ENVIRONMENTS.map(described))))
}

fn described(environment: Environment) -> Value {
    let Environment { id, name, is_production } = environment;
    json!({
        "id": id, "name": name, "projectId": PROJECT, "projectName": "acme-site",
        "organizationId": ORGANIZATION, "organizationName": "acme", "zone": "sandbox",
        "host": format!("xmc-acme-site-{name}.sitecorecloud.io"),
        "sitecoreMajorVersion": 1, "sitecoreMinorVersion": null,
        "platformTenantId": format!("tenant-{name}"), "platformTenantName": format!("acme-site-{name}"),
        "repositoryBranch": null, "tenantType": if is_production { "prod" } else { "nonprod" },
        "provisioningStatus": COMPLETED, "provisioningLastFailureMessage": null,
        "deployOnCommit": false, "lastSuccessfulDeploymentId": null, "createdAt": CREATED,
        "createdBy": CREATED_BY, "lastUpdatedBy": CREATED_BY, "lastUpdatedAt": CREATED,
        "isDeleted": false, "previewContextId": environment.preview_context(),
        "liveContextId": environment.live_context(), "highAvailabilityEnabled": false,
    })
}

/// The parameters of a list, whose names are in any case.
type Parameters = Query<Vec<(String, String)>>;

/// Returns one page of a list.
fn page(parameters: &Parameters, all: Vec<Value>) -> Response {
    let number = |wanted: &str, default: usize| {
        let mut parameters = parameters.0.iter();
        let given = parameters.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        given.map_or(Some(default), |(_, value)| value.parse().ok())
    };
    let (Some(number), Some(size)) = (number("PageNumber", 1), number("PageSize", PAGE_SIZE))
    else {
        return problem(StatusCode::BAD_REQUEST);
    };
    if number == 0 || !(1..=MAX_PAGE_SIZE).contains(&size) {
        return problem(StatusCode::BAD_REQUEST);
    }
    let total = all.len();
    let data: Vec<_> = all.into_iter().skip((number - 1).saturating_mul(size)).take(size).collect();
    let page = json!({ "totalCount": total, "pageSize": size, "pageNumber": number, "data": data });
    Json(page).into_response()
}

async fn list_environments(parameters: Parameters) -> Response {
    page(&parameters, ENVIRONMENTS.map(described).into())
}

async fn environment_with(Path(id): Path<String>) -> Response {
    found_or_404(environment(&id).map(described))
}

async fn obtain_edge_token(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    if environment(&id).is_none() {
        return problem(StatusCode::NOT_FOUND);
    }
    let key = cloud.edge_keys.of_environment(&id);
    let url = cloud.edge.as_str().trim_end_matches('/');
    Json(json!({ "apiKey": key, "edgeUrl": url })).into_response()
}

#[derive(Deserialize)]
struct NewVariable {
    value: Option<String>,
    #[serde(default)]
    secret: bool,
    target: Option<String>,
}

async fn list_variables(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    if environment(&id).is_none() {
        return problem(StatusCode::NOT_FOUND);
    }
    let variables = cloud.variables.lock();
    let of_it = variables.iter().filter(|((environment, _), _)| *environment == id);
    let shown = of_it.map(|((_, name), variable)| {
        // A secret value is never shown again.
        let value = variable.value.as_ref().filter(|_| !variable.is_secret);
        let target = variable.target.as_deref().unwrap_or("CM");
        json!({ "name": name, "value": value, "secret": variable.is_secret, "target": target })
    });
    Json(shown.collect::<Vec<_>>()).into_response()
}

async fn set_variable(
    State(cloud): State<Arc<Cloud>>,
    Path((id, name)): Path<(String, String)>,
    Input(wanted): Input<NewVariable>,
) -> Response {
    if environment(&id).is_none() {
        return problem(StatusCode::NOT_FOUND);
    }
    let NewVariable { value, secret: is_secret, target } = wanted;
    cloud.variables.lock().insert((id, name), Variable { value, is_secret, target });
    StatusCode::ACCEPTED.into_response()
}

async fn remove_variable(
    State(cloud): State<Arc<Cloud>>,
    Path((id, name)): Path<(String, String)>,
) -> Response {
    match cloud.variables.lock().remove(&(id, name)) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => problem(StatusCode::NOT_FOUND),
    }
}

/// Returns the number of deployments in each state.
async fn count_deployments(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    let deployments = cloud.deployments.lock();
    let states: Vec<_> = deployments.iter().map(|deployment| states(deployment).1).collect();
    let count = |wanted: u8| states.iter().filter(|&&state| state == wanted).count();
    Json(json!({
        "NotStarted": count(NOT_STARTED), "InProgress": count(IN_PROGRESS),
        "Completed": count(COMPLETED), "Failed": count(FAILED), "Skipped": count(SKIPPED),
    }))
}

async fn create_deployment(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    if environment(&id).is_none() {
        return problem(StatusCode::NOT_FOUND);
    }
    let mut deployments = cloud.deployments.lock();
    let number = deployments.len() + 1;
    let deployment = Deployment::new(format!("deployment{number:012}"), id);
    // Only a part of what reading it returns.
    let shown = json!({
        "id": deployment.id, "projectId": PROJECT, "environmentId": deployment.environment_id,
        "organizationId": ORGANIZATION, "createdAt": CREATED, "createdBy": CREATED_BY,
    });
    deployments.push(deployment);
    (StatusCode::CREATED, Json(shown)).into_response()
}

async fn deployments_of(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    if environment(&id).is_none() {
        return problem(StatusCode::NOT_FOUND);
    }
    let deployments = cloud.deployments.lock();
    let of_it = deployments.iter().filter(|deployment| deployment.environment_id == id);
    Json(of_it.map(shown).collect::<Vec<_>>()).into_response()
}

async fn list_deployments(State(cloud): State<Arc<Cloud>>, parameters: Parameters) -> Response {
    page(&parameters, cloud.deployments.lock().iter().map(shown).collect())
}

async fn deployment(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    let mut deployments = cloud.deployments.lock();
    let deployment = deployments.iter_mut().find(|deployment| deployment.id == id);
    found_or_404(deployment.map(|deployment| {
        deployment.advance();
        shown(deployment)
    }))
}

async fn start_deployment(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    let mut deployments = cloud.deployments.lock();
    let deployment = deployments.iter_mut().find(|deployment| deployment.id == id);
    match deployment.map(Deployment::start) {
        Some(true) => StatusCode::ACCEPTED.into_response(),
        Some(false) => problem(StatusCode::CONFLICT),
        None => problem(StatusCode::NOT_FOUND),
    }
}

async fn cancel_deployment(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    let mut deployments = cloud.deployments.lock();
    match deployments.iter_mut().find(|deployment| deployment.id == id) {
        Some(deployment) => {
            deployment.is_canceled = true;
            StatusCode::OK.into_response()
        }
        None => problem(StatusCode::NOT_FOUND),
    }
}

/// Returns the state of the build, and of the deployment as a whole.
fn states(deployment: &Deployment) -> (u8, u8) {
    match deployment.progress() {
        Progress::Created => (NOT_STARTED, NOT_STARTED),
        Progress::Building => (IN_PROGRESS, IN_PROGRESS),
        Progress::Deploying => (COMPLETED, IN_PROGRESS),
        Progress::Completed => (COMPLETED, COMPLETED),
    }
}

fn shown(this: &Deployment) -> Value {
    let (build, calculated) = states(this);
    let deployment = if build == COMPLETED { calculated } else { NOT_STARTED };
    let time = |is_reached: bool| is_reached.then_some(CREATED);
    let ended = |state: u8| time(state == COMPLETED);
    json!({
        "id": this.id, "projectId": PROJECT, "projectName": "acme-site",
        "environmentId": this.environment_id,
        "environmentName": environment(&this.environment_id).map(|environment| environment.name),
        "organizationId": ORGANIZATION, "organizationName": "acme", "buildId": null,
        "sitecoreMajorVersion": 1, "triggerMessage": null,
        "startedAt": time(build != NOT_STARTED), "completedAt": ended(calculated),
        "provisioningStatus": if build == NOT_STARTED { NOT_STARTED } else { COMPLETED },
        "provisioningStartedAt": time(build != NOT_STARTED),
        "provisioningCompletedAt": time(build != NOT_STARTED),
        "provisioningLastFailureMessage": null,
        "buildStatus": build, "buildStartedAt": time(build != NOT_STARTED),
        "buildCompletedAt": ended(build), "buildLastFailureMessage": null,
        "deploymentStatus": deployment, "deploymentStartedAt": time(deployment != NOT_STARTED),
        "deploymentSubmittedTime": null, "deploymentReconcilingTime": null,
        "deploymentCompletedAt": ended(deployment), "deploymentLastFailureMessage": null,
        "postActionStatus": if calculated == COMPLETED { COMPLETED } else { NOT_STARTED },
        "postActionStartedAt": ended(calculated), "postActionCompletedAt": ended(calculated),
        "postActionLastFailureMessage": null, "vercelStatus": SKIPPED,
        "vercelStartedAt": null, "vercelCompletedAt": null, "calculatedStatus": calculated,
        "commitId": null, "createdAt": CREATED, "createdBy": CREATED_BY,
        "isCanceled": this.is_canceled, "isDeploymentFailed": false,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewClient {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    environment_id: Option<String>,
}

impl NewClient {
    /// Returns `true` if an organization client has a name. A client of one environment must also
    /// keep to the allowed lengths, and name the project and an environment.
    fn is_valid(&self, kind: ClientKind) -> bool {
        if kind == ClientKind::Organization {
            return !self.name.is_empty();
        }
        let description = self.description.as_deref().unwrap_or_default();
        (3..=256).contains(&self.name.chars().count())
            && description.chars().count() <= 140
            && self.project_id.as_deref() == Some(PROJECT)
            && self.environment_id.as_deref().is_some_and(|id| environment(id).is_some())
    }
}

/// Creates an automation client. Only this response contains its secret.
async fn create_client(
    State(cloud): State<Arc<Cloud>>,
    Path(kind): Path<String>,
    Input(wanted): Input<NewClient>,
) -> Response {
    let kind = match kind.as_str() {
        "cm" => ClientKind::Environment,
        "deploy" => ClientKind::Organization,
        "edge" => ClientKind::EdgeAdministration,
        "ehbuild" => ClientKind::EditingHost,
        "organization" | "environment" => return problem(StatusCode::METHOD_NOT_ALLOWED),
        _ => return problem(StatusCode::NOT_FOUND),
    };
    if !wanted.is_valid(kind) {
        return problem(StatusCode::BAD_REQUEST);
    }
    let mut clients = cloud.clients.lock();
    let id = format!("sandbox-client-{}", cloud.serial());
    let client = Client::new(kind, &id, format!("{id}-secret")).named(wanted.name);
    let shown = json!({
        "name": client.name(), "description": wanted.description, "clientId": client.id(),
        "clientSecret": client.secret(),
    });
    clients.push(client);
    (StatusCode::CREATED, Json(shown)).into_response()
}

async fn delete_client(State(cloud): State<Arc<Cloud>>, Path(id): Path<String>) -> Response {
    let mut clients = cloud.clients.lock();
    let before = clients.len();
    clients.retain(|client| client.id() != id);
    if clients.len() < before {
        StatusCode::ACCEPTED.into_response()
    } else {
        problem(StatusCode::NOT_FOUND)
    }
}

async fn organization_clients(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    Json(clients(&cloud, |kind| kind == ClientKind::Organization))
}

async fn environment_clients(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    Json(clients(&cloud, |kind| kind != ClientKind::Organization))
}

fn clients(cloud: &Cloud, is_wanted: impl Fn(ClientKind) -> bool) -> Value {
    let clients = cloud.clients.lock();
    let wanted = clients.iter().filter(|client| is_wanted(client.kind()));
    let items = wanted.map(|client| {
        // The order of Sitecore's numbers is not documented.
        let number = match client.kind() {
            ClientKind::Environment => 1,
            ClientKind::Organization => 2,
            ClientKind::EdgeAdministration => 3,
            ClientKind::EditingHost => 4,
        };
        json!({
            "id": client.id(), "name": client.name(), "description": null, "clientId": client.id(),
            "createdAt": CREATED, "clientType": number,
        })
    });
    json!({ "items": items.collect::<Vec<_>>() })
}
