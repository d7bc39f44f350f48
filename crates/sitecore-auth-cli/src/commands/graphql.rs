//! `graphql`: sends a query and prints `data`.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, value::RawValue};

use crate::{
    api::{Query, graphql, prepare},
    args::{Api, Common, Graphql},
    config::Config,
    failure::{Failure, Result},
    terminal::{read_stdin, wait_for},
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
    let query = Query {
        query,
        variables: variables(&options.variables)?,
        operation_name: options.operation.clone(),
    };
    let api = if options.delivery { Api::Delivery } else { Api::Authoring };
    let host = options.host.host.as_deref();
    let call = async {
        let ready = prepare(api, host, common, config).await?;
        graphql(&ready, &query).await
    };
    let data = wait_for(common, "waiting for the response", call).await?;
    Ok(data.get().to_owned())
}

/// Reads variables: `name=text`, or `name:=json`.
fn variables(given: &[String]) -> Result<BTreeMap<String, Box<RawValue>>> {
    let mut variables = BTreeMap::new();
    for given in given {
        let (name, value) = given.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--var {given}: expected name=text or name:=json"))
        })?;
        let (name, value) = match name.strip_suffix(':') {
            Some(name) => (name, RawValue::from_string(value.to_owned())),
            None => (name, serde_json::value::to_raw_value(value)),
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("--var {given}: the name is empty")));
        }
        let value = value.map_err(|error| {
            Failure::usage(format!("--var {name}: the value is not JSON: {error}"))
        })?;
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

/// Reads a text from a file, or from standard input. Removes a byte order mark.
fn read_text(path: &Path) -> Result<String> {
    let shown = path.display();
    let bytes = match path == Path::new("-") {
        true => read_stdin()?,
        false => fs::read(path)
            .map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?,
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("{shown} is not UTF-8")).hint("save it as UTF-8"))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
