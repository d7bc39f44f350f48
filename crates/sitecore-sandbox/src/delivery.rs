//! Experience Edge's Delivery API: published content, for clients with an Edge key.

use std::sync::Arc;

use async_graphql::{
    Context, EmptyMutation, EmptySubscription, Object, Result, Schema, SimpleObject,
};
use axum::{
    Json, Router,
    extract::{Query as Parameters, State},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde::Deserialize;

use crate::{
    Api,
    authoring::{Field, Site, sites},
    content::Item,
    deploy::is_context_id,
    keys::now,
    problem::problem,
    sandbox::World,
};

pub(crate) const PATH: &str = "/api/graphql/v1";

/// The path on `edge-platform.sitecorecloud.io`, which the sandbox serves on the same origin.
pub(crate) const CONTEXT_PATH: &str = "/v1/content/api/graphql/v1";

/// Requests per second. The real limit applies only to uncached requests.
const LIMIT: u32 = 80;

type DeliverySchema = Schema<Query, EmptyMutation, EmptySubscription>;

#[derive(Clone)]
struct Edge {
    world: Arc<World>,
    schema: DeliverySchema,
}

pub(crate) fn router(world: Arc<World>) -> Router {
    let schema =
        Schema::build(Query, EmptyMutation, EmptySubscription).data(Arc::clone(&world)).finish();
    Router::new()
        .route(PATH, post(execute))
        .route(CONTEXT_PATH, post(execute_in_context))
        .with_state(Edge { world, schema })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContextId {
    sitecore_context_id: Option<String>,
}

/// Accepts a context id in the URL, without a key or a JWT.
async fn execute_in_context(
    State(edge): State<Edge>,
    Parameters(context): Parameters<ContextId>,
    Json(request): Json<async_graphql::Request>,
) -> Response {
    if !context.sitecore_context_id.is_some_and(|id| is_context_id(&id)) {
        edge.world.count_rejection(Api::Edge);
        return problem(StatusCode::UNAUTHORIZED);
    }
    Json(edge.schema.execute(request).await).into_response()
}

/// Accepts an Edge key in either header, but not a JWT.
async fn execute(
    State(edge): State<Edge>,
    headers: HeaderMap,
    Json(request): Json<async_graphql::Request>,
) -> Response {
    let keys = ["sc_apikey", "x-gql-token"].map(|name| headers.get(name));
    let mut keys = keys.into_iter().flatten().filter_map(|value| value.to_str().ok());
    if !keys.any(|key| edge.world.edge_keys.is_good(key)) {
        edge.world.count_rejection(Api::Edge);
        return problem(StatusCode::UNAUTHORIZED);
    }
    let left = edge.world.delivery_window.lock().take();
    let limits = [
        ("x-rate-limit-limit", LIMIT),
        ("x-rate-limit-remaining", left.unwrap_or(0)),
        ("x-rate-limit-reset", 1),
    ];
    let limits = limits.map(|(name, value)| (HeaderName::from_static(name), value.to_string()));
    match left {
        Some(_) => (limits, Json(edge.schema.execute(request).await)).into_response(),
        None => (StatusCode::TOO_MANY_REQUESTS, limits).into_response(),
    }
}

/// Counts the requests within one second.
#[derive(Debug, Default)]
pub(crate) struct Window {
    second: u64,
    taken: u32,
}

impl Window {
    /// Counts a request and returns how many are left in this second, or `None` if the
    /// limit is exceeded.
    fn take(&mut self) -> Option<u32> {
        let second = now().as_secs();
        if self.second != second {
            *self = Self { second, taken: 0 };
        }
        let left = LIMIT.checked_sub(self.taken + 1)?;
        self.taken += 1;
        Some(left)
    }
}

struct Query;

#[Object]
impl Query {
    /// An item, as last published.
    async fn item(
        &self,
        context: &Context<'_>,
        path: String,
        language: String,
    ) -> Result<Option<Published>> {
        let tree = context.data::<Arc<World>>()?.published.lock();
        let item = tree.find(Some(&path), None);
        Ok(item.filter(|item| item.language == language).cloned().map(Published))
    }

    /// The sites.
    async fn site(&self) -> SiteRoot {
        SiteRoot { site_info_collection: sites() }
    }
}

#[derive(SimpleObject)]
#[graphql(name = "SiteQuery")]
struct SiteRoot {
    site_info_collection: Vec<Site>,
}

struct Published(Item);

#[Object(name = "Item")]
impl Published {
    async fn id(&self) -> &str {
        &self.0.id
    }

    async fn name(&self) -> &str {
        &self.0.name
    }

    async fn path(&self) -> &str {
        &self.0.path
    }

    async fn field(&self, name: String) -> Option<Field> {
        self.0.field_named(&name)
    }

    async fn children(&self, context: &Context<'_>) -> Result<Children> {
        let tree = context.data::<Arc<World>>()?.published.lock();
        let results = tree.children(&self.0.path).cloned().map(Published);
        Ok(Children { results: results.collect() })
    }
}

#[derive(SimpleObject)]
#[graphql(name = "ItemSearchResults")]
struct Children {
    results: Vec<Published>,
}
