//! The sites, and what they show at a route.

use std::sync::Arc;

use async_graphql::{Context, Object, Result, SimpleObject};
use serde_json::{Map, Value, json};

use super::Page;
use crate::cloud::{Cloud, Item, Site, Tree, sites};

pub(super) struct SiteQuery;

#[Object]
impl SiteQuery {
    async fn site_info_collection(&self) -> Vec<SiteInfo> {
        sites().into_iter().map(SiteInfo).collect()
    }

    async fn site_info(&self, site: String) -> Option<SiteInfo> {
        site_named(&site).map(SiteInfo)
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
        after: Option<String>,
    ) -> Result<Page<Route>> {
        let tree = context.data::<Arc<Cloud>>()?.published.lock();
        let routes = tree.items().filter_map(|item| {
            let route_path = route_of(item, &self.0)?;
            Some(Route { route_path, route: PageOfRoute::default() })
        });
        Page::new(routes.collect(), first, after.as_deref())
    }

    /// The phrases of the site. The sandbox has one.
    async fn dictionary(
        &self,
        #[graphql(name = "language")] _language: Option<String>,
        first: Option<usize>,
        after: Option<String>,
    ) -> Result<Page<Phrase>> {
        let phrases = vec![Phrase { key: "ReadMore", value: "Read more" }];
        Page::new(phrases, first, after.as_deref())
    }

    async fn robots(&self) -> &str {
        "User-agent: *"
    }

    async fn llms_txt(&self) -> &str {
        "# Acme"
    }

    async fn sitemap(&self) -> Vec<String> {
        vec![format!("https://{}/sitemap.xml", self.0.host_name)]
    }

    async fn redirects(&self) -> Vec<Redirect> {
        vec![Redirect {
            pattern: "/old-products",
            target: "/Products",
            redirect_type: "REDIRECT_301",
            is_query_string_preserved: true,
            is_language_preserved: false,
            locale: self.0.language,
        }]
    }

    /// The error pages. The sandbox has none.
    async fn error_handling(
        &self,
        #[graphql(name = "language")] _language: Option<String>,
    ) -> ErrorHandling {
        ErrorHandling::default()
    }
}

#[derive(SimpleObject)]
#[graphql(name = "SiteRoute")]
pub(super) struct Route {
    route_path: String,
    route: PageOfRoute,
}

/// The page at a route.
#[derive(Default, SimpleObject)]
#[graphql(name = "RouteItem")]
struct PageOfRoute {
    personalization: Personalization,
}

/// The variants of a page for certain visitors. The sandbox has none.
#[derive(Default, SimpleObject)]
struct Personalization {
    variant_ids: Vec<String>,
}

#[derive(SimpleObject)]
#[graphql(name = "DictionaryPhrase")]
pub(super) struct Phrase {
    key: &'static str,
    value: &'static str,
}

#[derive(SimpleObject)]
struct Redirect {
    pattern: &'static str,
    target: &'static str,
    redirect_type: &'static str,
    is_query_string_preserved: bool,
    is_language_preserved: bool,
    locale: &'static str,
}

#[derive(Default, SimpleObject)]
struct ErrorHandling {
    not_found_page: Option<Rendered>,
    not_found_page_path: Option<String>,
    server_error_page: Option<Rendered>,
    server_error_page_path: Option<String>,
}

#[derive(SimpleObject)]
pub(super) struct Layout {
    item: Rendered,
}

impl Layout {
    /// Returns the page at a route; `None` if there is none.
    pub(super) fn of(
        site: &str,
        route_path: &str,
        language: Option<String>,
        tree: &Tree,
    ) -> Option<Self> {
        let site = site_named(site)?;
        let path = format!("{}/Home/{}", site.root_path, route_path.trim_matches('/'));
        let item = tree.find(Some(&path), None)?.clone();
        let language = language.unwrap_or_else(|| site.language.to_owned());
        Some(Self { item: Rendered { item, site: site.name, language } })
    }
}

/// An item as the Layout Service renders it.
pub(super) struct Rendered {
    item: Item,
    site: &'static str,
    language: String,
}

#[Object(name = "LayoutItem")]
impl Rendered {
    async fn id(&self) -> &str {
        &self.item.id
    }

    async fn version(&self) -> i32 {
        1
    }

    async fn personalization(&self) -> Personalization {
        Personalization::default()
    }

    async fn rendered(&self) -> async_graphql::Json<Value> {
        self.json()
    }
}

impl Rendered {
    pub(super) fn new(item: Item, site: &'static str) -> Self {
        let language = item.language.clone();
        Self { item, site, language }
    }

    pub(super) fn json(&self) -> async_graphql::Json<Value> {
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

/// Returns the route at which a site shows an item; `None` if it is not below the site's home.
pub(super) fn route_of(item: &Item, site: &Site) -> Option<String> {
    let home = format!("{}/home", site.root_path);
    let (start, below) = item.path.split_at_checked(home.len())?;
    let is_below = below.is_empty() || below.starts_with('/');
    let is_page = start.eq_ignore_ascii_case(&home) && is_below;
    is_page.then(|| format!("/{}", below.trim_matches('/')))
}

fn site_named(name: &str) -> Option<Site> {
    sites().into_iter().find(|site| site.name == name)
}
