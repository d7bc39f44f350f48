//! `check`: one token request per client, and one read per API.

use std::time::Duration;

use chrono::DateTime;
use reqwest::{
    Response,
    header::{DATE, VIA},
};
use serde_json::{Value, json};
use sitecore_auth::ClientKind;
use tokio::time::Instant;

use crate::{
    api::{Query, Ready, data, failure, is_html, ready, send_query},
    args::{Api, Check, Common, Format},
    config::Config,
    failure::{Failure, Result},
    login::Caches,
    terminal::{error_line, now, printable, wait_for},
};

/// A larger difference between the clocks is reported.
const MAX_SKEW: Duration = Duration::from_secs(60);

struct Row {
    api: Api,
    /// Where the credentials come from.
    place: String,
    result: Result<()>,
    /// Notes about the response. A successful check can have some too.
    notes: Vec<String>,
    elapsed: Duration,
}

pub(crate) async fn run(options: &Check, common: &Common, config: &Config) -> Result<String> {
    let host = options.host.host.as_deref();
    let mut caches = Caches::new(common, config);
    let apis = match options.apis.as_slice() {
        [] => suitable(host, common, config, &mut caches).await?,
        apis => apis.to_owned(),
    };
    if apis.is_empty() {
        let message = "there is nothing to check, because the CM's host is not known";
        return Err(Failure::usage(message)
            .hint("give the CM with --host, or name an API, such as `check deploy`"));
    }
    let mut rows = Vec::new();
    for api in apis {
        let (started, mut notes, mut place) = (Instant::now(), Vec::new(), String::new());
        let work = async {
            let cache;
            (cache, place) = caches.get(api).await?;
            let ready = ready(api, api.url(host, config)?, cache)?;
            read(api, &ready, &mut notes).await
        };
        let result = wait_for(common, &format!("checking {}", api.name()), work).await;
        rows.push(Row { api, place, result, notes, elapsed: started.elapsed() });
    }
    let failed = rows.iter().filter(|row| row.result.is_err()).count();
    let details = json!({ "version": 1, "checks": rows.iter().map(row_json).collect::<Vec<_>>() });
    let is_json = options.output.format == Format::Json;
    let report = if is_json { details.to_string() } else { table(&rows) };
    if failed == 0 {
        return Ok(report);
    }
    if !is_json {
        // Standard output stays empty.
        error_line(&report);
    }
    let message = format!("{failed} of {} checks failed", rows.len());
    Err(Failure::api(message).details(details))
}

/// Returns the APIs whose host or key is known, and that the credentials are for.
async fn suitable(
    host: Option<&str>,
    common: &Common,
    config: &Config,
    caches: &mut Caches<'_>,
) -> Result<Vec<Api>> {
    let mut apis = Vec::new();
    for api in [Api::Authoring, Api::Deploy, Api::Edge] {
        // The host is not known. A wrong one is reported when the API is called.
        if host.is_none() && api.url(None, config).is_err_and(|failure| failure.is_usage()) {
            continue;
        }
        let is_suitable = api.assigned(config).is_some() || {
            let (cache, _) = match caches.get(api).await {
                // The configuration file leaves this API out.
                Err(_) if config.assigns_credentials() => continue,
                found => found?,
            };
            let token = wait_for(common, "requesting a token", async { Ok(cache.token().await?) });
            let kind = token.await?.claims().and_then(|claims| claims.client_kind());
            match (api, kind) {
                (Api::Deploy, Some(kind)) => kind == ClientKind::Organization,
                (Api::Edge, Some(kind)) => kind == ClientKind::EdgeAdministration,
                (_, Some(kind)) => kind != ClientKind::EdgeAdministration,
                (_, None) => true,
            }
        };
        if is_suitable {
            apis.push(api);
        }
    }
    if std::env::var("SITECORE_EDGE_TOKEN").is_ok_and(|key| !key.trim().is_empty()) {
        apis.push(Api::Delivery);
    }
    Ok(apis)
}

/// Makes one cheap call.
async fn read(api: Api, ready: &Ready, notes: &mut Vec<String>) -> Result<()> {
    ready.cache.token().await?;
    let path = match api {
        Api::Authoring => return read_graphql("{ sites { name } }", ready, notes).await,
        Api::Delivery => return read_graphql("{ __typename }", ready, notes).await,
        Api::Deploy => "/api/organizations/v1",
        Api::Edge => "/api/admin/v1/settings",
    };
    let mut url = ready.url.clone();
    url.set_path(path);
    let response = ready.client.get(url).send().await?;
    *notes = unusual(&response);
    if !response.status().is_success() {
        return Err(failure(response).await);
    }
    if is_html(&response) {
        return Err(Failure::api("the API returned a web page instead of JSON")
            .hint("a proxy or a login page may have responded instead; check the host"));
    }
    let body = response.bytes().await?;
    match serde_json::from_slice::<Value>(&body) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::api("the response is not JSON").hint("check the host")),
    }
}

async fn read_graphql(query: &str, ready: &Ready, notes: &mut Vec<String>) -> Result<()> {
    let response = send_query(ready, &Query::new(query)).await?;
    *notes = unusual(&response);
    data(ready, response).await.map(drop)
}

fn unusual(response: &Response) -> Vec<String> {
    let mut notes = Vec::new();
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    if let Some(date) = date {
        let skew = (now() - date.to_utc()).abs().to_std().unwrap_or_default();
        if skew > MAX_SKEW {
            let skew = skew.as_secs();
            notes.push(format!(
                "this machine's clock and the server's differ by {skew} s; set this machine's clock"
            ));
        }
    }
    if let Some(via) = response.headers().get(VIA).and_then(|via| via.to_str().ok()) {
        notes.push(format!("the response passed through a proxy ({})", printable(via)));
    }
    notes
}

fn row_json(row: &Row) -> Value {
    json!({
        "api": row.api.name(),
        "result": if row.result.is_ok() { "fine" } else { "failed" },
        "message": row.result.as_ref().err().map(ToString::to_string),
        "notes": row.notes,
        "source": row.place,
        "milliseconds": u64::try_from(row.elapsed.as_millis()).unwrap_or(u64::MAX),
    })
}

fn table(rows: &[Row]) -> String {
    let lines = rows.iter().flat_map(|row| {
        let (mark, message) = match &row.result {
            Ok(()) => ("fine", String::new()),
            Err(failure) => ("FAILED", failure.to_string()),
        };
        let (name, millis) = (row.api.name(), row.elapsed.as_millis());
        let head = format!("{name:<10} {mark:<7} {millis:>6} ms  {}", row.place);
        let rest = message.lines().map(str::to_owned).chain(row.notes.iter().cloned());
        let rest = rest.map(|text| format!("{:11}{text}", ""));
        std::iter::once(head.trim_end().to_owned()).chain(rest).collect::<Vec<_>>()
    });
    lines.collect::<Vec<_>>().join("\n")
}
