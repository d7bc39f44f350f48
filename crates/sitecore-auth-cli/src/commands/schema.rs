//! `schema`: prints the schema of the Authoring API.

use std::fs;

use cynic_introspection::IntrospectionQuery;
use serde_json::{Value, json};

use super::graphql::pretty;
use crate::{
    api::{graphql, prepare},
    args::{Api, Common, Schema, SchemaFormat},
    config::Config,
    failure::{Failure, Result},
    terminal::wait_for,
};

/// How deeply types are wrapped in lists and non-null types. A CM rejects queries deeper than 13, and
/// the usual tools ask for more than that.
const LEVELS: usize = 7;

pub(crate) async fn run(options: &Schema, common: &Common, config: &Config) -> Result<String> {
    let ready = prepare(Api::Authoring, options.host.host.as_deref(), common, config)?;
    let query = json!({ "query": introspection() });
    let data = wait_for(common, "reading the schema", graphql(&ready, &query)).await?;
    let text = match options.format {
        SchemaFormat::Json => pretty(&json!({ "data": data })),
        SchemaFormat::Sdl => sdl(data)?,
    };
    match &options.output {
        None => Ok(text),
        Some(path) => {
            fs::write(path, text + "\n").map_err(|error| {
                Failure::usage(format!("cannot write {}: {error}", path.display()))
            })?;
            Ok(String::new())
        }
    }
}

fn introspection() -> String {
    let kind = (1..LEVELS)
        .fold("kind name".to_owned(), |inner, _| format!("kind name ofType {{ {inner} }}"));
    format!(
        "query Schema {{ __schema {{ \
           queryType {{ name }} mutationType {{ name }} subscriptionType {{ name }} \
           types {{ kind name description \
             fields(includeDeprecated: true) {{ name description args {{ ...Input }} type {{ ...Kind }} isDeprecated deprecationReason }} \
             inputFields {{ ...Input }} interfaces {{ name }} \
             enumValues(includeDeprecated: true) {{ name description isDeprecated deprecationReason }} \
             possibleTypes {{ name }} }} \
           directives {{ name description locations args {{ ...Input }} }} }} }} \
         fragment Input on __InputValue {{ name description type {{ ...Kind }} defaultValue }} \
         fragment Kind on __Type {{ {kind} }}"
    )
}

/// Returns the schema in the schema definition language.
fn sdl(data: Value) -> Result<String> {
    let unreadable = |reason: String| {
        Failure::api(format!("the result of the introspection query is not a schema: {reason}"))
    };
    let query: IntrospectionQuery =
        serde_json::from_value(data).map_err(|error| unreadable(error.to_string()))?;
    let schema = query.into_schema().map_err(|error| unreadable(error.to_string()))?;
    Ok(schema.to_sdl())
}
