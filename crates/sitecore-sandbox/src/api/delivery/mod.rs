//! Experience Edge's Delivery API: published content, for clients with an Edge key.

mod item;
mod search;
mod site;

use std::sync::Arc;

use async_graphql::{
    Context, EmptyMutation, EmptySubscription, Object, OutputType, Result, Schema, SimpleObject,
};
use axum::{
    Json, Router,
    extract::{Query as Parameters, State},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde::Deserialize;

use self::{
    item::Published,
    search::Predicate,
    site::{Layout, SiteQuery},
};
use super::problem::problem;
use crate::cloud::{Api, Cloud, LIMIT, is_context_id};

pub(crate) const PATH: &str = "/api/graphql/v1";

/// The path on `edge-platform.sitecorecloud.io`, which the sandbox serves on the same origin.
pub(crate) const CONTEXT_PATH: &str = "/v1/content/api/graphql/v1";

type DeliverySchema = Schema<Query, EmptyMutation, EmptySubscription>;

#[derive(Clone)]
struct Edge {
    cloud: Arc<Cloud>,
    schema: DeliverySchema,
}

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    let schema =
        Schema::build(Query, EmptyMutation, EmptySubscription).data(Arc::clone(&cloud)).finish();
    Router::new()
        .route(PATH, post(execute))
        .route(CONTEXT_PATH, post(execute_in_context))
        .with_state(Edge { cloud, schema })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContextId {
    sitecore_context_id: Option<String>,
}

/// Accepts a context id in the URL or, as Sitecore's own client sends it, in a header. There is no
/// key and no JWT.
async fn execute_in_context(
    State(edge): State<Edge>,
    Parameters(context): Parameters<ContextId>,
    headers: HeaderMap,
    Json(request): Json<async_graphql::Request>,
) -> Response {
    let header = headers.get("x-sitecore-contextid").and_then(|value| value.to_str().ok());
    let id = context.sitecore_context_id.as_deref().or(header);
    if !id.is_some_and(is_context_id) {
        edge.cloud.count_rejection(Api::Edge);
        return problem(StatusCode::UNAUTHORIZED);
    }
    Json(edge.schema.execute(request).await).into_response()
}

#[derive(Deserialize)]
struct Key {
    sc_apikey: Option<String>,
}

/// Accepts an Edge key in either header or in the URL, but not a JWT.
async fn execute(
    State(edge): State<Edge>,
    Parameters(parameters): Parameters<Key>,
    headers: HeaderMap,
    Json(request): Json<async_graphql::Request>,
) -> Response {
    let keys = ["sc_apikey", "x-gql-token"].map(|name| headers.get(name));
    let keys = keys.into_iter().flatten().filter_map(|value| value.to_str().ok());
    if !keys.chain(parameters.sc_apikey.as_deref()).any(|key| edge.cloud.edge_keys.is_good(key)) {
        edge.cloud.count_rejection(Api::Edge);
        return problem(StatusCode::UNAUTHORIZED);
    }
    let left = edge.cloud.delivery_window.lock().take();
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

struct Query;

#[Object]
impl Query {
    /// An item, as last published. The path can be an id.
    async fn item(
        &self,
        context: &Context<'_>,
        path: String,
        language: String,
        #[graphql(name = "version")] _version: Option<String>,
    ) -> Result<Option<Published>> {
        let tree = context.data::<Arc<Cloud>>()?.published.lock();
        let item = tree.find_any(&path).filter(|item| item.language == language);
        Ok(item.cloned().map(Published))
    }

    /// The sites.
    async fn site(&self) -> SiteQuery {
        SiteQuery
    }

    /// The page at a route, as the Layout Service renders it; null if there is none.
    async fn layout(
        &self,
        context: &Context<'_>,
        site: String,
        route_path: String,
        language: Option<String>,
    ) -> Result<Option<Layout>> {
        let tree = context.data::<Arc<Cloud>>()?.published.lock();
        Ok(Layout::of(&site, &route_path, language, &tree))
    }

    /// Published items that the predicate holds for, by their path.
    async fn search(
        &self,
        context: &Context<'_>,
        r#where: Predicate,
        first: Option<usize>,
        after: Option<String>,
    ) -> Result<Page<Published>> {
        let tree = context.data::<Arc<Cloud>>()?.published.lock();
        let found = tree.items().filter(|item| r#where.holds_for(item, &tree));
        Page::new(found.cloned().map(Published).collect(), first, after.as_deref())
    }
}

/// The entries of a list after a cursor, and whether there are more. A cursor is the number of
/// entries up to it.
#[derive(SimpleObject)]
#[graphql(concrete(name = "ItemSearchResults", params(Published)))]
#[graphql(concrete(name = "SiteRouteConnection", params("site::Route")))]
#[graphql(concrete(name = "DictionaryConnection", params("site::Phrase")))]
struct Page<T: OutputType> {
    total: usize,
    page_info: PageInfo,
    results: Vec<T>,
}

#[derive(SimpleObject)]
struct PageInfo {
    has_next: bool,
    end_cursor: String,
}

impl<T: OutputType> Page<T> {
    fn new(all: Vec<T>, first: Option<usize>, after: Option<&str>) -> Result<Self> {
        let total = all.len();
        let start: usize = match after {
            None | Some("") => 0,
            Some(cursor) => {
                cursor.parse().map_err(|_| "The cursor is not an `endCursor` of a page.")?
            }
        };
        let results: Vec<_> = all.into_iter().skip(start).take(first.unwrap_or(10)).collect();
        let end = start.saturating_add(results.len());
        let page_info = PageInfo { has_next: end < total, end_cursor: end.to_string() };
        Ok(Self { total, page_info, results })
    }
}
