//! Published items.

use std::sync::Arc;

use async_graphql::{Context, Object, Result, SimpleObject};
use serde_json::{Value, json};

use super::{
    super::items::Field,
    Page,
    site::{Rendered, route_of},
};
use crate::cloud::{Cloud, Item, sites};

/// A published item.
pub(super) struct Published(pub(super) Item);

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

    async fn version(&self) -> i32 {
        1
    }

    async fn language(&self) -> Language {
        Language { name: self.0.language.clone() }
    }

    /// Where the first site shows the item; null if no site does.
    async fn url(&self) -> Option<ItemUrl> {
        sites().iter().find_map(|site| {
            let path = route_of(&self.0, site)?;
            let url = format!("https://{}{path}", site.host_name);
            Some(ItemUrl { path, url, host_name: site.host_name, site_name: site.name })
        })
    }

    async fn template(&self) -> Template {
        Template { id: self.0.template.clone(), name: "Folder" }
    }

    async fn field(&self, name: String) -> Option<Shown> {
        Some(Shown(Field::of(&self.0, &name)?))
    }

    async fn rendered(&self) -> async_graphql::Json<Value> {
        let site = sites().into_iter().find(|site| route_of(&self.0, site).is_some());
        Rendered::new(self.0.clone(), site.map_or("website", |site| site.name)).json()
    }

    async fn children(
        &self,
        context: &Context<'_>,
        first: Option<usize>,
        after: Option<String>,
    ) -> Result<Page<Self>> {
        let tree = context.data::<Arc<Cloud>>()?.published.lock();
        let children = tree.children(&self.0.path).cloned().map(Published);
        Page::new(children.collect(), first, after.as_deref())
    }
}

#[derive(SimpleObject)]
#[graphql(name = "ItemLanguage")]
struct Language {
    name: String,
}

#[derive(SimpleObject)]
struct ItemUrl {
    path: String,
    url: String,
    host_name: &'static str,
    site_name: &'static str,
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
