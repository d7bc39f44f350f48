//! The Authoring and Management GraphQL API: sites and an item tree.
//!
//! Like the real API, it rejects invalid tokens with HTTP 200 and the error code
//! `AUTH_NOT_AUTHENTICATED`.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

use async_graphql::{
    Context, EmptySubscription, Error, ErrorExtensions as _, Guard, ID, InputObject, MergedObject,
    Object, Result, Schema, SimpleObject,
};
use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};

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
        .finish();
    Router::new()
        .route(PATH, post(execute))
        .route(PATH.trim_end_matches('/'), post(execute))
        .route(MANAGEMENT_PATH, post(execute))
        .with_state(Cm { world: Arc::clone(&world), schema })
        .merge(media::router(world))
}

async fn execute(
    State(cm): State<Cm>,
    headers: HeaderMap,
    Json(request): Json<async_graphql::Request>,
) -> Json<serde_json::Value> {
    let access = match cm.world.claims(&headers) {
        Some(claims) if claims.has_scope_like(SCOPE) => Access::Granted,
        Some(_) => Access::NotAuthorized,
        None => Access::NotAuthenticated,
    };
    if access != Access::Granted {
        cm.world.count_rejection(Api::Authoring);
    }
    let response = cm.schema.execute(request.data(access)).await;
    let mut body = serde_json::to_value(response).unwrap_or_default();
    if let Some(body) = body.as_object_mut()
        && body.get("data").is_some_and(serde_json::Value::is_null)
    {
        body.remove("data");
    }
    Json(body)
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
        let code = match context.data::<Access>()? {
            Access::Granted => return Ok(()),
            Access::NotAuthorized => "AUTH_NOT_AUTHORIZED",
            Access::NotAuthenticated => "AUTH_NOT_AUTHENTICATED",
        };
        let error = Error::new("The current user is not authorized to access this resource.");
        Err(error.extend_with(|_, extensions| extensions.set("code", code)))
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
            results: page.map(|item| (*item).clone()).collect(),
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

fn not_found() -> Error {
    Error::new("The item was not found.")
}

fn by_name(fields: Option<Vec<FieldValueInput>>) -> BTreeMap<String, String> {
    fields.unwrap_or_default().into_iter().map(|field| (field.name, field.value)).collect()
}

#[derive(SimpleObject)]
pub(crate) struct Site {
    name: &'static str,
    host_name: &'static str,
    root_path: &'static str,
    language: &'static str,
}

#[Object]
impl Item {
    async fn item_id(&self) -> ID {
        ID(self.id.clone())
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
        Template { template_id: ID(self.template.clone()) }
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

    async fn fields(&self) -> Nodes<Field> {
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
    results: Vec<Item>,
}

#[derive(InputObject)]
struct SearchQueryInput {
    index: Option<String>,
    search_statement: SearchStatementInput,
    paging: Option<SearchPagingInput>,
}

#[derive(InputObject)]
struct SearchStatementInput {
    criteria: Vec<SearchCriteriaInput>,
}

#[derive(InputObject)]
struct SearchCriteriaInput {
    field: String,
    value: String,
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
