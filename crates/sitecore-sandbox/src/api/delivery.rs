//! Experience Edge's Delivery API: published content, for clients with an Edge key.

use std::sync::Arc;

use async_graphql::{
    Context, EmptyMutation, EmptySubscription, InputObject, Object, Result, Schema, SimpleObject,
};
use axum::{
    Json, Router,
    extract::{Query as Parameters, State},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{items::Field, problem::problem};
use crate::cloud::{Api, Item, LIMIT, Site, World, is_context_id, sites};

pub(crate) const PATH: &str = "/api/graphql/v1";

/// The path on `edge-platform.sitecorecloud.io`, which the sandbox serves on the same origin.
pub(crate) const CONTEXT_PATH: &str = "/v1/content/api/graphql/v1";

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
        edge.world.count_rejection(Api::Edge);
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
    if !keys.chain(parameters.sc_apikey.as_deref()).any(|key| edge.world.edge_keys.is_good(key)) {
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
        let Some(site) = sites().into_iter().find(|known| known.name == site) else {
            return Ok(None);
        };
        let path = format!("{}/Home/{}", site.root_path, route_path.trim_matches('/'));
        let tree = context.data::<Arc<World>>()?.published.lock();
        let item = tree.find(Some(&path), None).cloned();
        let language = language.unwrap_or_else(|| site.language.to_owned());
        Ok(item.map(|item| Layout { item: Rendered { item, site: site.name, language } }))
    }

    /// Published items by their path. All predicates must hold.
    async fn search(
        &self,
        context: &Context<'_>,
        r#where: Predicate,
        first: Option<usize>,
    ) -> Result<Page<Published>> {
        let tree = context.data::<Arc<World>>()?.published.lock();
        let found = tree.items().filter(|item| r#where.holds_for(item)).cloned().map(Published);
        Ok(Page::new(found.collect(), first))
    }
}

/// A condition on an item.
#[derive(InputObject)]
#[graphql(name = "ItemSearchPredicateInput")]
struct Predicate {
    /// `_path`, `_language` or the name of a field.
    name: Option<String>,
    value: Option<String>,
    /// Only `EQ` and `CONTAINS` are supported.
    operator: Option<String>,
    #[graphql(name = "AND")]
    and: Option<Vec<Self>>,
}

impl Predicate {
    fn holds_for(&self, item: &Item) -> bool {
        let wanted = self.value.as_deref().unwrap_or_default();
        let own = match self.name.as_deref() {
            None => true,
            Some("_path") => item.path.to_lowercase().starts_with(&wanted.to_lowercase()),
            Some("_language") => item.language == wanted,
            Some(name) => item.fields.get(name).is_some_and(|value| value.contains(wanted)),
        };
        own && self.and.iter().flatten().all(|other| other.holds_for(item))
    }
}

struct SiteQuery;

#[Object]
impl SiteQuery {
    async fn site_info_collection(&self) -> Vec<SiteInfo> {
        sites().into_iter().map(SiteInfo).collect()
    }

    async fn site_info(&self, site: String) -> Option<SiteInfo> {
        sites().into_iter().find(|known| known.name == site).map(SiteInfo)
    }
}

struct SiteInfo(Site);

#[Object]
impl SiteInfo {
    async fn name(&self) -> &str {
        self.0.name
    }

    async fn hostname(&self) -> &str {
        self.0.host_name
    }

    async fn root_path(&self) -> &str {
        self.0.root_path
    }

    async fn language(&self) -> &str {
        self.0.language
    }

    /// The paths of the site's pages.
    async fn routes(
        &self,
        context: &Context<'_>,
        #[graphql(name = "language")] _language: Option<String>,
        #[graphql(name = "includedPaths")] _included_paths: Option<Vec<Option<String>>>,
        #[graphql(name = "excludedPaths")] _excluded_paths: Option<Vec<Option<String>>>,
        first: Option<usize>,
        #[graphql(name = "after")] _after: Option<String>,
    ) -> Result<Page<Route>> {
        let home = format!("{}/home", self.0.root_path);
        let tree = context.data::<Arc<World>>()?.published.lock();
        let routes = tree.items().filter_map(|item| {
            let below = item.path.to_lowercase().strip_prefix(&home)?.len();
            let route_path = format!("/{}", item.path[item.path.len() - below..].trim_matches('/'));
            Some(Route { route_path })
        });
        Ok(Page::new(routes.collect(), first))
    }

    /// The phrases of the site. The sandbox has one.
    async fn dictionary(
        &self,
        #[graphql(name = "language")] _language: Option<String>,
        first: Option<usize>,
        #[graphql(name = "after")] _after: Option<String>,
    ) -> Page<Phrase> {
        Page::new(vec![Phrase { key: "ReadMore", value: "Read more" }], first)
    }

    async fn robots(&self) -> &str {
        "User-agent: *"
    }
}

#[derive(Clone, SimpleObject)]
#[graphql(name = "SiteRoute")]
struct Route {
    route_path: String,
}

#[derive(Clone, SimpleObject)]
#[graphql(name = "DictionaryPhrase")]
struct Phrase {
    key: &'static str,
    value: &'static str,
}

#[derive(SimpleObject)]
struct Layout {
    item: Rendered,
}

struct Rendered {
    item: Item,
    site: &'static str,
    language: String,
}

#[Object(name = "LayoutItem")]
impl Rendered {
    async fn id(&self) -> &str {
        &self.item.id
    }

    async fn rendered(&self) -> async_graphql::Json<Value> {
        let fields = self.item.fields.iter();
        let fields = fields.map(|(name, value)| (name.clone(), json!({ "value": value })));
        async_graphql::Json(json!({ "sitecore": {
            "context": {
                "pageEditing": false, "pageState": "normal", "language": self.language,
                "site": { "name": self.site }, "itemPath": self.item.path,
            },
            "route": {
                "name": self.item.name, "displayName": self.item.name,
                "fields": Map::from_iter(fields), "placeholders": {}, "itemId": self.item.id,
            },
        } }))
    }
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

    async fn display_name(&self) -> &str {
        &self.0.name
    }

    async fn path(&self) -> &str {
        &self.0.path
    }

    async fn template(&self) -> Template {
        Template { id: self.0.template.clone(), name: "Folder" }
    }

    async fn field(&self, name: String) -> Option<Shown> {
        Some(Shown(Field::of(&self.0, &name)?))
    }

    async fn children(&self, context: &Context<'_>, first: Option<usize>) -> Result<Page<Self>> {
        let tree = context.data::<Arc<World>>()?.published.lock();
        let children = tree.children(&self.0.path).cloned().map(Published).collect();
        Ok(Page::new(children, first))
    }
}

#[derive(SimpleObject)]
#[graphql(name = "ItemTemplate")]
struct Template {
    id: String,
    name: &'static str,
}

/// A field of a published item.
struct Shown(Field);

#[Object(name = "ItemField")]
impl Shown {
    async fn name(&self) -> &str {
        &self.0.name
    }

    async fn value(&self) -> &str {
        &self.0.value
    }

    async fn json_value(&self) -> async_graphql::Json<Value> {
        async_graphql::Json(json!({ "value": self.0.value }))
    }
}

/// The first entries of a list, and whether there are more. Cursors are not supported.
#[derive(SimpleObject)]
#[graphql(concrete(name = "ItemSearchResults", params(Published)))]
#[graphql(concrete(name = "SiteRouteConnection", params(Route)))]
#[graphql(concrete(name = "DictionaryConnection", params(Phrase)))]
struct Page<T: async_graphql::OutputType> {
    total: usize,
    page_info: PageInfo,
    results: Vec<T>,
}

#[derive(SimpleObject)]
struct PageInfo {
    has_next: bool,
    end_cursor: String,
}

impl<T: async_graphql::OutputType> Page<T> {
    fn new(mut all: Vec<T>, first: Option<usize>) -> Self {
        let total = all.len();
        all.truncate(first.unwrap_or(10));
        let page_info = PageInfo { has_next: all.len() < total, end_cursor: all.len().to_string() };
        Self { total, page_info, results: all }
    }
}
