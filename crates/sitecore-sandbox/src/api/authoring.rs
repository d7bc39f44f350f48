//! The Authoring and Management GraphQL API over HTTP.
//!
//! Like the real API, it rejects a token with the error code `AUTH_NOT_AUTHENTICATED` for each
//! field, with HTTP 200 unless the sandbox is set to another status.

use std::{collections::HashSet, sync::Arc};

use async_graphql::{
    BatchRequest, EmptySubscription, MergedObject, Request, Schema,
    parser::{
        parse_query,
        types::{ExecutableDocument, Field, OperationType, Selection, SelectionSet},
    },
};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde_json::{Value, json};

use super::{
    access::{Access, SCOPE},
    items::{ItemMutation, ItemQuery},
    media::{self, MediaMutation},
    publishing::{PublishingMutation, PublishingQuery},
};
use crate::cloud::{Api, Cloud};

pub(crate) const PATH: &str = "/sitecore/api/authoring/graphql/v1/";

/// The path that the Sitecore CLI uses. It serves the same schema.
const MANAGEMENT_PATH: &str = "/sitecore/api/management";

/// Deeper queries are rejected, such as the usual introspection query.
const MAX_DEPTH: usize = 13;

#[derive(Default, MergedObject)]
struct Query(ItemQuery, PublishingQuery);

#[derive(Default, MergedObject)]
struct Mutation(ItemMutation, PublishingMutation, MediaMutation);

type AuthoringSchema = Schema<Query, Mutation, EmptySubscription>;

#[derive(Clone)]
struct Cm {
    cloud: Arc<Cloud>,
    schema: AuthoringSchema,
}

pub(crate) fn router(cloud: Arc<Cloud>) -> Router {
    let schema = Schema::build(Query::default(), Mutation::default(), EmptySubscription)
        .data(Arc::clone(&cloud))
        .limit_depth(MAX_DEPTH)
        .finish();
    Router::new()
        .route(PATH, post(execute))
        .route(PATH.trim_end_matches('/'), post(execute))
        .route(MANAGEMENT_PATH, post(execute))
        .with_state(Cm { cloud: Arc::clone(&cloud), schema })
        .merge(media::router(cloud))
}

/// Executes a request, or each request of a batch.
async fn execute(
    State(cm): State<Cm>,
    headers: HeaderMap,
    Json(batch): Json<BatchRequest>,
) -> Response {
    let access = match cm.cloud.cm_claims(&headers) {
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
    cm.cloud.count_rejection(Api::Authoring);
    let status = cm.cloud.rejection_status();
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
    let document = match parse_query(&request.query) {
        Ok(document) => document,
        Err(error) => return json!({ "errors": [{ "message": error.to_string() }] }),
    };
    let operation = document.operations.iter().find(|(name, _)| {
        request
            .operation_name
            .as_deref()
            .is_none_or(|wanted| name.is_some_and(|name| name == wanted))
    });
    let Some((_, operation)) = operation else {
        return json!({ "errors": [{ "message": "the operation is not in the document" }] });
    };
    let mut fields = Vec::new();
    let (set, mut seen) = (&operation.node.selection_set.node, HashSet::new());
    root_fields(&document, set, &mut seen, &mut fields);
    let (mut errors, mut data) = (Vec::new(), serde_json::Map::new());
    for field in fields {
        let key = field.response_key().node.to_string();
        if field.name.node == "__typename" {
            let root = match operation.node.ty {
                OperationType::Mutation => "Mutation",
                _ => "Query",
            };
            data.insert(key, json!(root));
            continue;
        }
        errors.push(json!({
            "message": "The current user is not authorized to access this resource.",
            "locations": [{ "line": 1, "column": 3 }],
            "path": [key], "extensions": { "code": code },
        }));
        data.insert(key, Value::Null);
    }
    let mut body = json!({});
    if !errors.is_empty() {
        body["errors"] = Value::Array(errors);
    }
    if with_data {
        body["data"] = Value::Object(data);
    }
    body
}

/// Collects the fields at the top of an operation, also from fragments, each of which is read once.
fn root_fields<'a>(
    document: &'a ExecutableDocument,
    set: &'a SelectionSet,
    seen: &mut HashSet<&'a str>,
    fields: &mut Vec<&'a Field>,
) {
    for selection in &set.items {
        let nested = match &selection.node {
            Selection::Field(field) => {
                fields.push(&field.node);
                None
            }
            Selection::InlineFragment(fragment) => Some(&fragment.node.selection_set),
            Selection::FragmentSpread(spread) => {
                let name = &spread.node.fragment_name.node;
                let fragment = document.fragments.get(name).filter(|_| seen.insert(name));
                fragment.map(|fragment| &fragment.node.selection_set)
            }
        };
        if let Some(nested) = nested {
            root_fields(document, &nested.node, seen, fields);
        }
    }
}
