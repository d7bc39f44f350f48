//! `graphql`: sends a query and prints `data`.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use serde_json::{Map, Value, json};

use crate::{
    api::{graphql, prepare},
    args::{Api, Common, Graphql},
    config::Config,
    failure::{Failure, Result},
    terminal::wait_for,
};

pub(crate) async fn run(options: &Graphql, common: &Common, config: &Config) -> Result<String> {
    let query = match (&options.query, &options.file) {
        (Some(query), _) => query.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => read_text(Path::new("-"))?,
    };
    if query.trim().is_empty() {
        return Err(Failure::usage("the query is empty"));
    }
    let mut body = json!({ "query": query, "variables": variables(&options.variables)? });
    if let Some(operation) = &options.operation {
        body["operationName"] = json!(operation);
    }
    let api = if options.delivery { Api::Delivery } else { Api::Authoring };
    let ready = prepare(api, options.host.host.as_deref(), common, config)?;
    let data = wait_for(common, "waiting for the response", graphql(&ready, &body)).await?;
    Ok(pretty(&data))
}

/// Reads variables: `name=text`, or `name:=json`.
fn variables(given: &[String]) -> Result<Map<String, Value>> {
    let mut variables = Map::new();
    for given in given {
        let (name, value) = given.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--var {given}: expected name=text or name:=json"))
        })?;
        let (name, value) = match name.strip_suffix(':') {
            Some(name) => {
                let value = serde_json::from_str(value).map_err(|error| {
                    Failure::usage(format!("--var {name}: the value is not JSON: {error}"))
                })?;
                (name, value)
            }
            None => (name, json!(value)),
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("--var {given}: the name is empty")));
        }
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

/// Reads a text from a file, or from standard input. Removes a byte order mark.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text =
        text.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
