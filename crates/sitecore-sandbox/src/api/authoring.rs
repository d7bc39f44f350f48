//! The Authoring and Management GraphQL API: sites and an item tree.
//!
//! Like the real API, it rejects a token with the error code `AUTH_NOT_AUTHENTICATED` for each
//! field, with HTTP 200 unless the sandbox is set to another status.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

use async_graphql::{
    BatchRequest, Context, EmptySubscription, Enum, Error, Guard, ID, InputObject, MergedObject,
    Object, Request, Result, Schema, SimpleObject,
    parser::{parse_query, types::Selection},
};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde_json::{Value, json};

use crate::{
    Api,
    content::{Item, Tree, bare_id},
    media::{self, MediaMutation},
    publishing::{PublishingMutation, PublishingQuery},
    sandbox::World,
};

pub(crate) const PATH: &str = "/sitecore/api/authoring/graphql/v1/";

/// The path that the Sitecore CLI uses. It serves the same schema.
const MANAGEMENT_PATH: &str = "/sitecore/api/management";

pub(crate) const SCOPE: &str = "xmcloud.cm:";

/// Deeper queries are rejected, such as the usual introspection query.
const MAX_DEPTH: usize = 13;

#[derive(Default, MergedObject)]
struct Query(ItemQuery, PublishingQuery);

#[derive(Default, MergedObject)]
struct Mutation(ItemMutation, PublishingMutation, MediaMutation);

type AuthoringSchema = Schema<Query, Mutation, EmptySubscription>;

#[derive(Clone)]
struct Cm {
    world: Arc<World>,
    schema: AuthoringSchema,
}

pub(crate) fn router(world: Arc<World>) -> Router {
    let schema = Schema::build(Query::default(), Mutation::default(), EmptySubscription)
        .data(Arc::clone(&world))
        .limit_depth(MAX_DEPTH)
        .finish();
    Router::new()
        .route(PATH, post(execute))
        .route(PATH.trim_end_matches('/'), post(execute))
        .route(MANAGEMENT_PATH, post(execute))
        .with_state(Cm { world: Arc::clone(&world), schema })
        .merge(media::router(world))
}

/// Executes a request, or each request of a batch.
async fn execute(
    State(cm): State<Cm>,
    headers: HeaderMap,
    Json(batch): Json<BatchRequest>,
) -> Response {
    let access = match cm.world.cm_claims(&headers) {
        Some(claims) if claims.has_scope_like(SCOPE) => Access::Granted,
        Some(_) => Access::NotAuthorized,
        None => Access::NotAuthenticated,
    };
    let code = match access {
        Access::Granted => {
            return Json(cm.schema.execute_batch(batch.data(access)).await).into_response();
        }
        Access::NotAuthorized => "AUTH_NOT_AUTHORIZED",
        Access::NotAuthenticated => "AUTH_NOT_AUTHENTICATED",
    };
    cm.world.count_rejection(Api::Authoring);
    let status = cm.world.rejection_status();
    let deny = |request: &Request| denial(request, code, status == StatusCode::OK);
    let body = match &batch {
        BatchRequest::Single(request) => deny(request),
        BatchRequest::Batch(requests) => requests.iter().map(deny).collect(),
    };
    (status, Json(body)).into_response()
}

/// Describes that every field of a request was denied, like HotChocolate's `@authorize`. Newer
/// versions leave `data` out.
fn denial(request: &Request, code: &str, with_data: bool) -> Value {
    let document = parse_query(&request.query).ok();
    let operations = document.iter().flat_map(|document| document.operations.iter());
    let selections = operations.flat_map(|(_, operation)| &operation.node.selection_set.node.items);
    let fields = selections.filter_map(|selection| match &selection.node {
        Selection::Field(field) => Some(field.node.response_key().node.to_string()),
        _ => None,
    });
    let (mut errors, mut data) = (Vec::new(), serde_json::Map::new());
    for field in fields {
        if field == "__typename" {
            data.insert(field, json!("Query"));
            continue;
        }
        errors.push(json!({
            "message": "The current user is not authorized to access this resource.",
            "locations": [{ "line": 1, "column": 3 }],
            "path": [field], "extensions": { "code": code },
        }));
        data.insert(field, Value::Null);
    }
    let mut body = json!({ "errors": errors });
    if with_data {
        body["data"] = Value::Object(data);
    }
    body
}

/// The access that a call's bearer token gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Granted,
    NotAuthorized,
    NotAuthenticated,
}

/// Denies access to a field, like HotChocolate's `@authorize`.
pub(crate) struct SignedIn;

impl Guard for SignedIn {
    async fn check(&self, context: &Context<'_>) -> Result<()> {
        match context.data::<Access>()? {
            Access::Granted => Ok(()),
            _ => Err(Error::new("The current user is not authorized to access this resource.")),
        }
    }
}

/// Returns the sites of the environment.
pub(crate) fn sites() -> Vec<Site> {
    vec![
        Site {
            name: "acme",
            host_name: "www.acme.example",
            root_path: "/sitecore/content/acme",
            language: "en",
        },
        Site {
            name: "acme-campaigns",
            host_name: "campaigns.acme.example",
            root_path: "/sitecore/content/acme",
            language: "en",
        },
    ]
}

fn content<'a>(context: &Context<'a>) -> Result<MutexGuard<'a, Tree>> {
    Ok(context.data::<Arc<World>>()?.content.lock())
}

#[derive(Default)]
struct ItemQuery;

#[Object]
impl ItemQuery {
    /// The sites of this environment.
    #[graphql(guard = "SignedIn")]
    async fn sites(&self) -> Vec<Site> {
        sites()
    }

    /// The user that the token stands for.
    #[graphql(guard = "SignedIn")]
    async fn current_user(&self) -> User {
        User { name: "sitecore\\sandbox", is_administrator: true }
    }

    /// Finds items by the values of their fields, which include `_name` and `_fullpath`.
    #[graphql(guard = "SignedIn")]
    async fn search(&self, context: &Context<'_>, query: SearchQueryInput) -> Result<SearchResult> {
        let tree = content(context)?;
        let criteria = &query.search_statement.criteria;
        let found: Vec<_> = tree
            .items()
            .filter(|item| criteria.iter().all(|wanted| wanted.is_met_by(item)))
            .collect();
        let (skip, size) = query.paging.map_or((0, usize::MAX), |paging| {
            (paging.page_index.saturating_mul(paging.page_size), paging.page_size)
        });
        let page = found.iter().skip(skip).take(size);
        Ok(SearchResult {
            total_count: found.len(),
            results: page.map(|item| Found((*item).clone())).collect(),
        })
    }

    /// An item, by path or id.
    #[graphql(guard = "SignedIn")]
    async fn item(&self, context: &Context<'_>, r#where: ItemQueryInput) -> Result<Option<Item>> {
        Ok(content(context)?.find(r#where.path.as_deref(), r#where.item_id.as_ref()).cloned())
    }
}

#[derive(Default)]
struct ItemMutation;

#[Object]
impl ItemMutation {
    /// Creates an item below its parent.
    #[graphql(guard = "SignedIn")]
    async fn create_item(
        &self,
        context: &Context<'_>,
        input: CreateItemInput,
    ) -> Result<CreateItemPayload> {
        let mut tree = content(context)?;
        let parent = tree
            .find(None, Some(&input.parent))
            .ok_or_else(|| Error::new("The parent item was not found."))?;
        let parent = parent.path.clone();
        if input.name.trim().is_empty() || input.name.contains('/') {
            return Err(Error::new(format!("The item name '{}' is not valid.", input.name)));
        }
        if tree.find(Some(&format!("{parent}/{}", input.name)), None).is_some() {
            return Err(Error::new(format!(
                "The item name '{}' is already defined on this level.",
                input.name
            )));
        }
        let fields = by_name(input.fields);
        let item =
            tree.add(&parent, &input.name, &bare_id(&input.template_id), &input.language, fields);
        Ok(CreateItemPayload { item })
    }

    /// Changes fields of an item.
    #[graphql(guard = "SignedIn")]
    async fn update_item(
        &self,
        context: &Context<'_>,
        input: UpdateItemInput,
    ) -> Result<UpdateItemPayload> {
        let mut tree = content(context)?;
        let item = tree.find_mut(input.path.as_deref(), input.item_id.as_ref());
        let item = item.ok_or_else(not_found)?;
        item.fields.extend(by_name(input.fields));
        Ok(UpdateItemPayload { item: item.clone() })
    }

    /// Deletes an item and its descendants.
    #[graphql(guard = "SignedIn")]
    async fn delete_item(
        &self,
        context: &Context<'_>,
        input: DeleteItemInput,
    ) -> Result<DeleteItemPayload> {
        let mut tree = content(context)?;
        let item = tree.find_mut(input.path.as_deref(), input.item_id.as_ref());
        let path = item.ok_or_else(not_found)?.path.clone();
        tree.remove(&path);
        Ok(DeleteItemPayload { successful: true })
    }
}

/// Returns an id with dashes.
fn dashed(id: &str) -> String {
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &id[range]);
    parts.join("-")
}

fn not_found() -> Error {
    Error::new("The item was not found.")
}

fn by_name(fields: Option<Vec<FieldValueInput>>) -> BTreeMap<String, String> {
    fields.unwrap_or_default().into_iter().map(|field| (field.name, field.value)).collect()
}

#[derive(SimpleObject)]
struct User {
    name: &'static str,
    is_administrator: bool,
}

#[derive(SimpleObject)]
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) host_name: &'static str,
    pub(crate) root_path: &'static str,
    pub(crate) language: &'static str,
}

#[Object]
impl Item {
    /// The id in the format `N` or `D` of .NET.
    async fn item_id(&self, format: Option<String>) -> ID {
        match format.as_deref() {
            Some("D") => ID(dashed(&self.id)),
            _ => ID(self.id.clone()),
        }
    }

    async fn display_name(&self) -> &str {
        &self.name
    }

    async fn has_children(&self, context: &Context<'_>) -> Result<bool> {
        Ok(content(context)?.children(&self.path).next().is_some())
    }

    async fn name(&self) -> &str {
        &self.name
    }

    async fn path(&self) -> &str {
        &self.path
    }

    async fn version(&self) -> i32 {
        1
    }

    async fn language(&self) -> Language {
        Language { name: self.language.clone() }
    }

    async fn template(&self) -> Template {
        Template { template_id: ID(self.template.clone()), name: "Folder" }
    }

    async fn parent(&self, context: &Context<'_>) -> Result<Option<Self>> {
        let parent = self.path.rsplit_once('/').map(|(parent, _)| parent);
        Ok(content(context)?.find(parent, None).cloned())
    }

    async fn children(&self, context: &Context<'_>, first: Option<usize>) -> Result<Nodes<Self>> {
        let tree = content(context)?;
        let children = tree.children(&self.path).take(first.unwrap_or(usize::MAX));
        Ok(Nodes { nodes: children.cloned().collect() })
    }

    async fn field(&self, name: String) -> Option<Field> {
        self.field_named(&name)
    }

    /// The fields. The sandbox has no standard or inherited ones, so the arguments make no
    /// difference.
    async fn fields(
        &self,
        #[graphql(name = "ownFields", default)] _own_fields: bool,
        #[graphql(name = "excludeStandardFields", default)] _exclude_standard_fields: bool,
    ) -> Nodes<Field> {
        let fields = self.fields.iter();
        Nodes {
            nodes: fields
                .map(|(name, value)| Field { name: name.clone(), value: value.clone() })
                .collect(),
        }
    }
}

#[derive(SimpleObject)]
#[graphql(concrete(name = "ItemConnection", params(Item)))]
#[graphql(concrete(name = "ItemFieldConnection", params(Field)))]
struct Nodes<T: async_graphql::OutputType> {
    nodes: Vec<T>,
}

#[derive(SimpleObject)]
#[graphql(name = "ItemField")]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: String,
}

#[derive(SimpleObject)]
struct Language {
    name: String,
}

#[derive(SimpleObject)]
#[graphql(name = "ItemTemplate")]
struct Template {
    template_id: ID,
    name: &'static str,
}

#[derive(SimpleObject)]
struct CreateItemPayload {
    item: Item,
}

#[derive(SimpleObject)]
struct UpdateItemPayload {
    item: Item,
}

#[derive(SimpleObject)]
struct DeleteItemPayload {
    successful: bool,
}

#[derive(SimpleObject)]
struct SearchResult {
    total_count: usize,
    results: Vec<Found>,
}

/// An entry of the search index.
struct Found(Item);

#[Object(name = "SearchItem")]
impl Found {
    async fn inner_item(&self) -> &Item {
        &self.0
    }

    async fn item_id(&self) -> ID {
        ID(self.0.id.clone())
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

    async fn template_name(&self) -> &str {
        "Folder"
    }

    async fn version(&self) -> i32 {
        1
    }

    async fn created_date(&self) -> &str {
        "2026-01-07T09:00:00Z"
    }
}

#[derive(InputObject)]
struct SearchQueryInput {
    index: Option<String>,
    search_statement: SearchStatementInput,
    paging: Option<SearchPagingInput>,
    /// Not supported.
    filter_statement: Option<SearchStatementInput>,
    language: Option<String>,
    #[graphql(default)]
    latest_version_only: bool,
    /// Not supported.
    sort: Option<SearchSortInput>,
}

#[derive(InputObject)]
struct SearchSortInput {
    field: String,
    direction: Option<String>,
}

#[derive(InputObject)]
struct SearchStatementInput {
    criteria: Vec<SearchCriteriaInput>,
    /// All criteria are combined with `MUST`.
    operator: Option<SearchOperator>,
}

#[derive(Clone, Copy, PartialEq, Eq, Enum)]
enum SearchOperator {
    Must,
    Should,
    Not,
}

#[derive(Clone, Copy, PartialEq, Eq, Enum)]
enum CriteriaType {
    Exact,
    Startswith,
    Contains,
    Search,
}

#[derive(InputObject)]
struct SearchCriteriaInput {
    field: String,
    value: String,
    /// `_name` is compared exactly, `_fullpath` by its beginning, and other fields by containment.
    criteria_type: Option<CriteriaType>,
    operator: Option<SearchOperator>,
}

impl SearchCriteriaInput {
    fn is_met_by(&self, item: &Item) -> bool {
        match self.field.as_str() {
            "_name" => item.name.eq_ignore_ascii_case(&self.value),
            "_fullpath" => item.path.to_lowercase().starts_with(&self.value.to_lowercase()),
            other => item.fields.get(other).is_some_and(|value| value.contains(&self.value)),
        }
    }
}

#[derive(InputObject)]
struct SearchPagingInput {
    #[graphql(default)]
    page_index: usize,
    #[graphql(default = 10)]
    page_size: usize,
}

#[derive(InputObject)]
struct ItemQueryInput {
    #[graphql(default = "master")]
    database: String,
    item_id: Option<ID>,
    path: Option<String>,
    language: Option<String>,
}

#[derive(InputObject)]
struct FieldValueInput {
    name: String,
    value: String,
}

#[derive(InputObject)]
struct CreateItemInput {
    name: String,
    parent: ID,
    template_id: ID,
    #[graphql(default = "en")]
    language: String,
    fields: Option<Vec<FieldValueInput>>,
}

#[derive(InputObject)]
struct UpdateItemInput {
    item_id: Option<ID>,
    path: Option<String>,
    fields: Option<Vec<FieldValueInput>>,
}

#[derive(InputObject)]
struct DeleteItemInput {
    item_id: Option<ID>,
    path: Option<String>,
    #[graphql(default)]
    permanently: bool,
}
