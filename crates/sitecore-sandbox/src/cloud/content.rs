//! The content: one tree of edited items, and one of published items.

use std::collections::BTreeMap;

use async_graphql::ID;

/// The id of the template for folders.
const FOLDER: &str = "a87a00b1e6db45ab8b549fc06c7b9d2e";

/// Items by their lowercase path.
#[derive(Clone)]
pub(crate) struct Tree {
    items: BTreeMap<String, Item>,
    made: u64,
}

#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) template: String,
    pub(crate) language: String,
    pub(crate) fields: BTreeMap<String, String>,
}

impl Default for Tree {
    fn default() -> Self {
        let mut tree = Self { items: BTreeMap::new(), made: 0 };
        for (parent, name) in [
            ("", "sitecore"),
            ("/sitecore", "content"),
            ("/sitecore/content", "acme"),
            ("/sitecore/content/acme", "Home"),
            ("/sitecore/content/acme/Home", "Products"),
            ("/sitecore/content/acme/Home", "About"),
        ] {
            tree.add(parent, name, FOLDER, "en", BTreeMap::new());
        }
        tree
    }
}

impl Tree {
    pub(crate) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.values()
    }

    /// Replaces an item and its descendants with those of another tree.
    pub(crate) fn adopt(&mut self, other: &Self, root: &str) {
        self.remove(root);
        let (key, below) = (root.to_lowercase(), format!("{}/", root.to_lowercase()));
        let items = other.items.iter();
        let items = items.filter(|(path, _)| **path == key || path.starts_with(&below));
        self.items.extend(items.map(|(path, item)| (path.clone(), item.clone())));
    }

    pub(crate) fn add(
        &mut self,
        parent: &str,
        name: &str,
        template: &str,
        language: &str,
        fields: BTreeMap<String, String>,
    ) -> Item {
        self.made += 1;
        let item = Item {
            id: format!("{:032x}", 0xac3e_0000_0000 + self.made),
            name: name.to_owned(),
            path: format!("{parent}/{name}"),
            template: template.to_owned(),
            language: language.to_owned(),
            fields,
        };
        self.items.insert(item.path.to_lowercase(), item.clone());
        item
    }

    /// Finds an item by its path, ignoring case, or by its id, in any notation.
    pub(crate) fn find(&self, path: Option<&str>, id: Option<&ID>) -> Option<&Item> {
        self.items.get(&self.key(path, id)?)
    }

    /// Finds an item by a text that is its path or its id.
    pub(crate) fn find_any(&self, path_or_id: &str) -> Option<&Item> {
        let is_path = path_or_id.starts_with('/');
        let id = ID(path_or_id.to_owned());
        self.find(is_path.then_some(path_or_id), (!is_path).then_some(&id))
    }

    pub(crate) fn find_mut(&mut self, path: Option<&str>, id: Option<&ID>) -> Option<&mut Item> {
        let key = self.key(path, id)?;
        self.items.get_mut(&key)
    }

    fn key(&self, path: Option<&str>, id: Option<&ID>) -> Option<String> {
        if let Some(path) = path {
            return Some(path.trim_end_matches('/').to_lowercase());
        }
        let id = bare_id(id?);
        self.items.iter().find_map(|(key, item)| (item.id == id).then(|| key.clone()))
    }

    /// Returns the items directly below a path.
    pub(crate) fn children(&self, path: &str) -> impl Iterator<Item = &Item> {
        let below = format!("{}/", path.to_lowercase());
        let is_child =
            move |key: &str| key.strip_prefix(&below).is_some_and(|name| !name.contains('/'));
        self.items.iter().filter_map(move |(key, item)| is_child(key).then_some(item))
    }

    /// Removes an item and its descendants.
    pub(crate) fn remove(&mut self, path: &str) {
        let (key, below) = (path.to_lowercase(), format!("{}/", path.to_lowercase()));
        self.items.retain(|path, _| *path != key && !path.starts_with(&below));
    }
}

impl Item {
    /// Returns `true` if this is the other item or one of its descendants.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let (own, other) = (self.path.to_lowercase(), other.path.to_lowercase());
        let below = own.strip_prefix(&other);
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }
}

/// Returns the lowercase hexadecimal digits of an id, without any punctuation.
pub(crate) fn bare_id(id: &str) -> String {
    id.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_lowercase()
}

/// A site of the environment.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) host_name: &'static str,
    pub(crate) root_path: &'static str,
    pub(crate) language: &'static str,
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
