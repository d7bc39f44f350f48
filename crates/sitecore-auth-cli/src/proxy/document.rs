//! What a GraphQL request contains, as far as the proxy must know.

use std::collections::{BTreeMap, HashSet};

use async_graphql_parser::{
    parse_query,
    types::{ExecutableDocument, OperationType, Selection, SelectionSet},
};
use serde::{Deserialize, de::IgnoredAny};
use sitecore_auth::may_name_document;

/// Deeper documents are not parsed. CMs reject queries that are deeper than 13.
const MAX_DEPTH: usize = 100;

/// One request of a body.
#[derive(Deserialize)]
struct Operation {
    query: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// The documents of a body: one, or those of a batch.
pub(crate) struct Documents(Vec<ExecutableDocument>);

impl Documents {
    /// Reads the body of a `POST`. `None` if there is a document that cannot be read, or might not
    /// be the one that is executed.
    pub(crate) fn of_body(body: &[u8]) -> Option<Self> {
        let documents = operations(body)?.into_iter().map(|operation| {
            match operation.others.keys().any(|name| may_name_document(name)) {
                true => None,
                false => parse(&operation.query?),
            }
        });
        let documents: Vec<_> = documents.collect::<Option<_>>()?;
        (!documents.is_empty()).then_some(Self(documents))
    }

    /// Reads the document in the query of a `GET`. `None` as for a body.
    pub(crate) fn of_query(query: &str) -> Option<Self> {
        let parameters = url::form_urlencoded::parse(query.as_bytes());
        let mut documents = parameters.filter(|(name, _)| may_name_document(name));
        let (name, document) = documents.next()?;
        match name == "query" && documents.next().is_none() {
            true => Some(Self(vec![parse(&document)?])),
            false => None,
        }
    }

    pub(crate) fn contain_mutation(&self) -> bool {
        self.0.iter().any(|document| {
            document
                .operations
                .iter()
                .any(|(_, operation)| operation.node.ty == OperationType::Mutation)
        })
    }
}

/// Returns the names under which the response to a body contains this field.
pub(crate) fn response_keys(body: &[u8], field: &str) -> HashSet<String> {
    let mut keys = HashSet::new();
    let queries = operations(body).into_iter().flatten().filter_map(|operation| operation.query);
    // A name in a document cannot be escaped.
    for document in queries.filter(|query| query.contains(field)).filter_map(|query| parse(&query))
    {
        let operations = document.operations.iter().map(|(_, it)| &it.node.selection_set.node);
        let fragments = document.fragments.values().map(|it| &it.node.selection_set.node);
        for set in operations.chain(fragments) {
            collect(set, field, &mut keys);
        }
    }
    keys
}

fn operations(body: &[u8]) -> Option<Vec<Operation>> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => serde_json::from_slice(body).ok(),
        // A member that occurs twice is an error here.
        _ => Some(vec![serde_json::from_slice(body).ok()?]),
    }
}

fn collect(set: &SelectionSet, field: &str, keys: &mut HashSet<String>) {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(found) => {
                if found.node.name.node == field {
                    keys.insert(found.node.response_key().node.to_string());
                }
                collect(&found.node.selection_set.node, field, keys);
            }
            Selection::InlineFragment(fragment) => {
                collect(&fragment.node.selection_set.node, field, keys);
            }
            Selection::FragmentSpread(_) => {}
        }
    }
}

fn parse(text: &str) -> Option<ExecutableDocument> {
    // The parser calls itself for each level.
    (depth(text) <= MAX_DEPTH).then(|| parse_query(text).ok()).flatten()
}

/// Returns how deep brackets are nested in a document, outside strings and comments.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        rest = match next {
            '#' => rest.find(['\n', '\r']).map_or("", |end| &rest[end..]),
            '"' => after_string(rest),
            _ => &rest[next.len_utf8()..],
        };
        match next {
            '{' | '[' | '(' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            '}' | ']' | ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Returns what follows the string at the start of the text.
fn after_string(text: &str) -> &str {
    if let Some(mut rest) = text.strip_prefix("\"\"\"") {
        loop {
            let Some(end) = rest.find("\"\"\"") else { return "" };
            let is_escaped = rest[..end].ends_with('\\');
            rest = &rest[end + 3..];
            if !is_escaped {
                return rest;
            }
        }
    }
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|(_, char)| {
        let ends = *char == '"' && !is_escaped;
        is_escaped = *char == '\\' && !is_escaped;
        ends
    });
    end.map_or("", |(at, _)| &text[at + 1..])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mutation_is_found_by_parsing() {
        let contains =
            |body: &str| Documents::of_body(body.as_bytes()).map(|it| it.contain_mutation());
        let one = |query: &str| contains(&json!({ "query": query }).to_string());
        assert_eq!(one("{ a }"), Some(false));
        assert_eq!(one("query mutation { mutation(text: \"mutation { a }\") }"), Some(false));
        assert_eq!(one("subscription { a }"), Some(false));
        assert_eq!(one("mutation { a }"), Some(true));
        assert_eq!(one("# {\nquery A { a } mutation B { b }"), Some(true));
        assert_eq!(one("fragment F on T { a } mutation { ...F }"), Some(true));
        assert_eq!(contains(r#"[{"query":"{ a }"},{"query":"mutation { a }"}]"#), Some(true));
        for unclear in [
            "",
            "{}",
            "[]",
            r#"{"query":"{ a"}"#,
            r#"{"query":"{ a }","query":"mutation { a }"}"#,
            r#"{"query":"{ a }","Query":"mutation { a }"}"#,
            r#"{"query":"{ a }","documentId":"1"}"#,
            r#"{"query":"{ a }","queryId":"1"}"#,
            r#"{"extensions":{"persistedQuery":{}}}"#,
            "query=mutation { a }",
        ] {
            assert_eq!(contains(unclear), None, "{unclear}");
        }
        let of_query = |text: &str| Documents::of_query(text).map(|it| it.contain_mutation());
        assert_eq!(of_query("query=%7Ba%7D&variables="), Some(false));
        assert_eq!(of_query("query=mutation%7Ba%7D"), Some(true));
        assert_eq!(of_query("query=%7Ba%7D&query=mutation%7Ba%7D"), None);
        assert_eq!(of_query("Query=mutation%7Ba%7D"), None);
        assert_eq!(of_query("query=%7Ba%7D&documentId=1"), None);
        assert_eq!(contains("\u{feff}{\"query\":\"{ a }\"}"), Some(false));
    }

    #[test]
    fn a_deep_document_is_not_parsed() {
        let nested = |levels: usize| format!("{}a{}", "{a".repeat(levels), "}".repeat(levels));
        assert_eq!(depth(&nested(7)), 7);
        assert_eq!(depth(r#"{ a(b: "}}}{{{\"{{", c: """{{\"""{{""") # {{"#), 2);
        assert!(parse(&nested(50)).is_some());
        assert!(parse(&nested(200_000)).is_none());
        let hidden = format!("{{a(b:\"{}\"){}", "}".repeat(200_000), nested(200_000));
        assert!(parse(&hidden).is_none());
    }

    #[test]
    fn aliases_and_fragments_name_a_field_in_the_response() {
        let query = "mutation { a: uploadMedia { url: presignedUploadUrl ...F } }
            fragment F on P { ... on P { presignedUploadUrl } }";
        let body = json!({ "query": query }).to_string();
        let keys = response_keys(body.as_bytes(), "presignedUploadUrl");
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort();
        assert_eq!(keys, ["presignedUploadUrl", "url"]);
    }
}
