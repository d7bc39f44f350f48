//! The Authoring API's sites and items.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

use async_graphql::{Context, Enum, Error, ID, InputObject, Object, Result, SimpleObject};

use super::{
    access::SignedIn,
    search::{SearchQueryInput, SearchResult},
};
use crate::cloud::{Cloud, Item, Site, Tree, bare_id, sites};

fn content<'a>(context: &Context<'a>) -> Result<MutexGuard<'a, Tree>> {
    Ok(context.data::<Arc<Cloud>>()?.content.lock())
}

#[derive(Default)]
pub(super) struct ItemQuery;

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
        Ok(query.run(&*content(context)?))
    }

    /// An item, by path or id.
    #[graphql(guard = "SignedIn")]
    async fn item(&self, context: &Context<'_>, r#where: ItemQueryInput) -> Result<Option<Item>> {
        Ok(content(context)?.find(r#where.path.as_deref(), r#where.item_id.as_ref()).cloned())
    }
}

#[derive(Default)]
pub(super) struct ItemMutation;

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

#[Object]
impl Site {
    async fn name(&self) -> &str {
        self.name
    }

    async fn host_name(&self) -> &str {
        self.host_name
    }

    async fn root_path(&self) -> &str {
        self.root_path
    }

    async fn language(&self) -> &str {
        self.language
    }
}

/// How an id is written: with or without hyphens.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
enum IdFormat {
    N,
    D,
}

#[Object]
impl Item {
    /// The id in the format `N` or `D` of .NET.
    async fn item_id(&self, format: Option<IdFormat>) -> ID {
        match format {
            Some(IdFormat::D) => ID(dashed(&self.id)),
            Some(IdFormat::N) | None => ID(self.id.clone()),
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
        Field::of(self, &name)
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
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: String,
}

impl Field {
    pub(super) fn of(item: &Item, name: &str) -> Option<Self> {
        let value = item.fields.get(name)?.clone();
        Some(Self { name: name.to_owned(), value })
    }
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
