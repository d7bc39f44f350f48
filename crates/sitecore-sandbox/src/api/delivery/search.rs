//! The predicates of a search for published items.

use async_graphql::{Enum, InputObject};

use crate::cloud::{Item, Tree, bare_id};

/// A condition on an item. All its parts must hold.
#[derive(InputObject)]
#[graphql(name = "ItemSearchPredicateInput")]
pub(super) struct Predicate {
    /// `_path`, `_templates`, `_language`, `_name`, `_hasLayout`, `_latestVersion` or the name of a
    /// field.
    name: Option<String>,
    value: Option<String>,
    #[graphql(default_with = "Operator::Eq")]
    operator: Operator,
    #[graphql(name = "AND")]
    and: Option<Vec<Self>>,
    #[graphql(name = "OR")]
    or: Option<Vec<Self>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(name = "ItemSearchOperator")]
enum Operator {
    Eq,
    Contains,
    Neq,
    Ncontains,
}

impl Predicate {
    pub(super) fn holds_for(&self, item: &Item, tree: &Tree) -> bool {
        let own = self.name.as_deref().is_none_or(|name| self.compares(name, item, tree));
        let all = self.and.iter().flatten().all(|other| other.holds_for(item, tree));
        let any = self.or.as_ref().is_none_or(|others| {
            others.is_empty() || others.iter().any(|other| other.holds_for(item, tree))
        });
        own && all && any
    }

    fn compares(&self, name: &str, item: &Item, tree: &Tree) -> bool {
        let wanted = self.value.as_deref().unwrap_or_default();
        let is_negated = matches!(self.operator, Operator::Neq | Operator::Ncontains);
        let holds = match name {
            // The index has an item's ancestors and the item itself.
            "_path" => tree.find_any(wanted).is_some_and(|root| item.is_within(root)),
            "_templates" => bare_id(&item.template) == bare_id(wanted),
            "_language" => item.language == wanted,
            "_name" => item.name == wanted,
            // The sandbox renders every item, and keeps only the latest version.
            "_hasLayout" | "_latestVersion" => wanted == "true",
            _ => {
                let value = item.fields.get(name).map(String::as_str).unwrap_or_default();
                match self.operator {
                    Operator::Eq | Operator::Neq => value == wanted,
                    Operator::Contains | Operator::Ncontains => value.contains(wanted),
                }
            }
        };
        holds != is_negated
    }
}
