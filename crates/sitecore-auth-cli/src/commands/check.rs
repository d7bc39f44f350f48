//! `check`: one token request, and one read per API.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::{
    Response,
    header::{DATE, VIA},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::token::now;
use crate::{
    api::{Ready, failure, graphql, is_html, prepare},
    args::{Api, Check, Common, Format},
    config::Config,
    failure::{Failure, Result},
    terminal::wait_for,
};

/// A larger difference between the clocks is reported.
const MAX_SKEW: Duration = Duration::from_secs(60);

struct Row {
    api: Api,
    result: Result<Vec<String>>,
    elapsed: Duration,
}

pub(crate) async fn run(options: &Check, common: &Common, config: &Config) -> Result<String> {
    let host = options.host.host.as_deref();
    let apis = match options.apis.as_slice() {
        [] => known(host, config),
        apis => apis.to_owned(),
    };
    let mut rows = Vec::new();
    for api in apis {
        let started = Instant::now();
        let work = async { read(api, &prepare(api, host, common, config)?).await };
        let result = wait_for(common, &format!("checking {}", api.name()), work).await;
        rows.push(Row { api, result, elapsed: started.elapsed() });
    }
    let failed = rows.iter().filter(|row| row.result.is_err()).count();
    let report = match options.output.format {
        Format::Text => table(&rows),
        Format::Json => {
            json!({ "version": 1, "checks": rows.iter().map(row_json).collect::<Vec<_>>() })
                .to_string()
        }
    };
    if failed == 0 {
        return Ok(report);
    }
    // The report is the message of the failure, so it goes to stderr.
    anstream::eprintln!("{report}");
    let of = rows.len();
    Err(Failure::api(format!("{failed} of {of} checks failed")))
}

/// Returns the APIs whose host or key is known.
fn known(host: Option<&str>, config: &Config) -> Vec<Api> {
    let mut apis = vec![Api::Deploy, Api::Edge];
    if Api::Authoring.url(host, config).is_ok() {
        apis.insert(0, Api::Authoring);
    }
    if std::env::var_os("SITECORE_EDGE_TOKEN").is_some() {
        apis.push(Api::Delivery);
    }
    apis
}

/// Makes one cheap call. Returns notes about what is unusual.
async fn read(api: Api, ready: &Ready) -> Result<Vec<String>> {
    ready.cache.token().await?;
    let path = match api {
        Api::Authoring => {
            graphql(ready, &json!({ "query": "{ sites { name } }" })).await?;
            return Ok(Vec::new());
        }
        Api::Delivery => {
            graphql(ready, &json!({ "query": "{ __typename }" })).await?;
            return Ok(Vec::new());
        }
        Api::Deploy => "/api/organizations/v1",
        Api::Edge => "/api/admin/v1/settings",
    };
    let mut url = ready.url.clone();
    url.set_path(path);
    let response = ready.client.get(url).send().await?;
    if is_html(&response) {
        return Err(Failure::api("a web page instead of JSON")
            .hint("a proxy or a login page may be in between; check the host"));
    }
    if !response.status().is_success() {
        return Err(failure(response).await);
    }
    Ok(notes(&response))
}

fn notes(response: &Response) -> Vec<String> {
    let mut notes = Vec::new();
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    if let Some(date) = date {
        let skew = (now() - date.with_timezone(&Utc)).abs().to_std().unwrap_or_default();
        if skew > MAX_SKEW {
            let skew = skew.as_secs();
            notes.push(format!(
                "this machine's clock and the server's differ by {skew} s; set this machine's clock"
            ));
        }
    }
    if let Some(via) = response.headers().get(VIA).and_then(|via| via.to_str().ok()) {
        notes.push(format!("there is a proxy in between ({via})"));
    }
    notes
}

fn row_json(row: &Row) -> Value {
    let (result, message, notes) = match &row.result {
        Ok(notes) => ("fine", None, notes.clone()),
        Err(failure) => ("failed", Some(failure.to_string()), Vec::new()),
    };
    json!({
        "api": row.api.name(), "result": result, "message": message, "notes": notes,
        "milliseconds": row.elapsed.as_millis() as u64,
    })
}

fn table(rows: &[Row]) -> String {
    let lines = rows.iter().flat_map(|row| {
        let (mark, mut texts) = match &row.result {
            Ok(notes) if notes.is_empty() => ("fine", vec![String::new()]),
            Ok(notes) => ("fine", notes.clone()),
            Err(failure) => ("FAILED", failure.to_string().lines().map(str::to_owned).collect()),
        };
        let first = texts.remove(0);
        let head =
            format!("{:<10} {mark:<7} {:>6} ms  {first}", row.api.name(), row.elapsed.as_millis());
        let rest = texts.into_iter().map(|text| format!("{:29}{text}", ""));
        std::iter::once(head.trim_end().to_owned()).chain(rest).collect::<Vec<_>>()
    });
    lines.collect::<Vec<_>>().join("\n")
}
