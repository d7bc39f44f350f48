//! Authoring's search, which reads all items instead of an index.

use async_graphql::{Enum, ID, InputObject, Object, SimpleObject};

use crate::cloud::{Item, Tree};

#[derive(SimpleObject)]
pub(super) struct SearchResult {
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
pub(super) struct SearchQueryInput {
    index: Option<String>,
    search_statement: SearchStatementInput,
    paging: Option<SearchPagingInput>,
    filter_statement: Option<SearchStatementInput>,
    language: Option<String>,
    #[graphql(default)]
    latest_version_only: bool,
    /// Ignored.
    sort: Option<SearchSortInput>,
}

impl SearchQueryInput {
    pub(super) fn run(&self, tree: &Tree) -> SearchResult {
        let found: Vec<_> = tree.items().filter(|item| self.finds(item)).collect();
        let (skip, size) = self.paging.as_ref().map_or((0, usize::MAX), |paging| {
            (paging.page_index.saturating_mul(paging.page_size), paging.page_size)
        });
        let page = found.iter().skip(skip).take(size);
        let results = page.map(|item| Found((*item).clone())).collect();
        SearchResult { total_count: found.len(), results }
    }

    fn finds(&self, item: &Item) -> bool {
        self.search_statement.holds_for(item)
            && self.filter_statement.as_ref().is_none_or(|filter| filter.holds_for(item))
            && self.language.as_ref().is_none_or(|language| *language == item.language)
    }
}

#[derive(InputObject)]
struct SearchSortInput {
    field: String,
    direction: Option<String>,
}

#[derive(InputObject)]
struct SearchStatementInput {
    criteria: Vec<SearchCriteriaInput>,
    /// For criteria without an operator of their own; `MUST` if it is missing.
    operator: Option<SearchOperator>,
}

impl SearchStatementInput {
    fn holds_for(&self, item: &Item) -> bool {
        let with = |operator| {
            let default = self.operator.unwrap_or(SearchOperator::Must);
            self.criteria.iter().filter(move |one| one.operator.unwrap_or(default) == operator)
        };
        let mut should = with(SearchOperator::Should).peekable();
        with(SearchOperator::Must).all(|wanted| wanted.is_met_by(item))
            && !with(SearchOperator::Not).any(|unwanted| unwanted.is_met_by(item))
            && (should.peek().is_none() || should.any(|wanted| wanted.is_met_by(item)))
    }
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
    Endswith,
    Search,
}

#[derive(InputObject)]
struct SearchCriteriaInput {
    field: String,
    value: String,
    /// If it is missing, `_name` is compared exactly, `_fullpath` by its beginning, and other
    /// fields by containment.
    criteria_type: Option<CriteriaType>,
    operator: Option<SearchOperator>,
}

impl SearchCriteriaInput {
    fn is_met_by(&self, item: &Item) -> bool {
        let (value, default) = match self.field.as_str() {
            "_name" => (Some(&item.name), CriteriaType::Exact),
            "_fullpath" => (Some(&item.path), CriteriaType::Startswith),
            other => (item.fields.get(other), CriteriaType::Contains),
        };
        let wanted = self.value.to_lowercase();
        value.map(|value| value.to_lowercase()).is_some_and(|value| {
            match self.criteria_type.unwrap_or(default) {
                CriteriaType::Exact => value == wanted,
                CriteriaType::Startswith => value.starts_with(&wanted),
                CriteriaType::Endswith => value.ends_with(&wanted),
                CriteriaType::Contains | CriteriaType::Search => value.contains(&wanted),
            }
        })
    }
}

#[derive(InputObject)]
struct SearchPagingInput {
    #[graphql(default)]
    page_index: usize,
    #[graphql(default = 10)]
    page_size: usize,
}
