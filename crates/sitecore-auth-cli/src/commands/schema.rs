//! `schema`: prints the schema of the Authoring API.

use std::fs;

use cynic_introspection::IntrospectionQuery;
use serde_json::{Value, json};

use super::graphql::pretty;
use crate::{
    api::{Query, graphql, prepare},
    args::{Api, Common, Schema, SchemaFormat},
    config::Config,
    failure::{Failure, Result},
    terminal::wait_for,
};

/// How deeply types are wrapped in lists and non-null types. A CM rejects queries deeper than 13,
/// and the usual tools ask for more than that.
const LEVELS: usize = 7;

pub(crate) async fn run(options: &Schema, common: &Common, config: &Config) -> Result<String> {
    let call = async {
        let host = options.host.host.as_deref();
        let ready = prepare(Api::Authoring, host, common, config).await?;
        graphql(&ready, &Query::new(introspection())).await
    };
    let data = wait_for(common, "reading the schema", call).await?;
    let data: Value = serde_json::from_str(data.get())
        .map_err(|error| Failure::api(format!("the schema is not JSON: {error}")))?;
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

/// Escapes what would end a description.
fn escape_descriptions(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(escape_descriptions),
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) if name == "description" => {
                        *text = text.replace("\"\"\"", "\\\"\"\"");
                    }
                    value => escape_descriptions(value),
                }
            }
        }
        _ => {}
    }
}

/// Returns the schema in the schema definition language.
fn sdl(mut data: Value) -> Result<String> {
    escape_descriptions(&mut data);
    let unreadable = |reason: String| {
        Failure::api(format!("the result of the introspection query is not a schema: {reason}"))
    };
    let query: IntrospectionQuery =
        serde_json::from_value(data).map_err(|error| unreadable(error.to_string()))?;
    let schema = query.into_schema().map_err(|error| unreadable(error.to_string()))?;
    Ok(schema.to_sdl().trim_end().to_owned())
}
