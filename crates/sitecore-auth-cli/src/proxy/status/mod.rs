//! The status page and the health checks: what the tokens and the latest calls look like.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use serde::Serialize;
use serde_json::json;
use sitecore_auth::{CacheStatus, Freshness, TokenCache};

use super::{
    Upstream,
    access::Access,
    body::{Body, full},
    record::{Record, Records},
};
use crate::{
    failure::for_shells,
    terminal::{key_of, printable, words},
};

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The width of a bar's drawing.
const BAR: f64 = 1_000.0;

/// The status page of a proxy. It shows no secret.
#[derive(Debug)]
pub(crate) struct StatusPage {
    access: Access,
    upstreams: Arc<[Upstream]>,
    records: Records,
    /// What the tokens say about themselves, by the place of the credentials.
    owners: Mutex<HashMap<String, Owner>>,
}

/// What a token says about its owner.
#[derive(Clone, Debug, Default, Serialize)]
struct Owner {
    client_kind: Option<String>,
    organization: Option<String>,
    environment: Option<String>,
    #[serde(skip)]
    fingerprint: String,
}

/// One set of credentials, and the APIs that are called with it.
#[derive(Serialize)]
struct Account {
    source: String,
    apis: Vec<&'static str>,
    owner: Owner,
    status: CacheStatus,
}

impl StatusPage {
    pub(crate) fn new(access: Access, upstreams: Arc<[Upstream]>, records: Records) -> Self {
        Self { access, upstreams, records, owners: Mutex::default() }
    }

    pub(crate) fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, _) = request.into_parts();
        if let Err(problem) = self.access.check(&parts) {
            return problem.response();
        }
        if ![Method::GET, Method::HEAD].contains(&parts.method) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match parts.uri.path() {
            "/" => content("text/html; charset=utf-8", self.page()),
            "/main" => content("text/html; charset=utf-8", self.main()),
            "/status.json" => content("application/json", self.json()),
            "/page.css" => content("text/css; charset=utf-8", include_str!("page.css").to_owned()),
            "/page.js" => {
                content("text/javascript; charset=utf-8", include_str!("page.js").to_owned())
            }
            "/icon.svg" => content("image/svg+xml", include_str!("icon.svg").to_owned()),
            "/healthz/live" => text(StatusCode::OK, "live\n"),
            "/healthz/ready" => self.readiness(),
            _ => text(StatusCode::NOT_FOUND, "page not found\n"),
        }
    }

    /// Ready means that calls get a token, or that nothing is known to be wrong.
    fn readiness(&self) -> Response<Body> {
        let is_ready = |upstream: &Upstream| {
            // Starts the refresh that is due, because a proxy that is not ready gets no calls.
            let _ = upstream.cache.current();
            upstream.cache.status().is_ready()
        };
        let Some(upstream) = self.upstreams.iter().find(|upstream| !is_ready(upstream)) else {
            return text(StatusCode::OK, "ready\n");
        };
        let mut message = format!("{}: no token is available", upstream.api.name());
        if let Some(error) = upstream.cache.status().last_error() {
            message = format!("{message}: {}", printable(&for_shells(&error.cause())));
        }
        text(StatusCode::SERVICE_UNAVAILABLE, message + "\n")
    }

    fn json(&self) -> String {
        let object = json!({
            "version": 1,
            "in_flight": self.records.in_flight(),
            "credentials": self.accounts(),
            "requests": self.records.latest(),
        });
        object.to_string()
    }

    fn accounts(&self) -> Vec<Account> {
        let mut accounts: Vec<Account> = Vec::new();
        for upstream in &*self.upstreams {
            let known = accounts.iter_mut().find(|account| account.source == upstream.source);
            if let Some(account) = known {
                account.apis.push(upstream.api.name());
                continue;
            }
            let status = upstream.cache.status();
            accounts.push(Account {
                source: upstream.source.clone(),
                apis: vec![upstream.api.name()],
                owner: self.owner(&upstream.source, &status, &upstream.cache),
                status,
            });
        }
        accounts
    }

    fn owner(&self, source: &str, status: &CacheStatus, cache: &TokenCache) -> Owner {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let known = owners.entry(source.to_owned()).or_default();
        let fingerprint = status.fingerprint().map(|it| it.to_string()).unwrap_or_default();
        // Looks at each token once: `current` also starts a refresh that is due.
        if status.is_usable()
            && known.fingerprint != fingerprint
            && let Some(claims) = cache.current().and_then(|token| token.claims())
        {
            let named = |name: &str, id: &str| {
                claims.sitecore(name).or_else(|| claims.sitecore(id)).map(printable)
            };
            *known = Owner {
                client_kind: claims.client_kind().map(|kind| key_of(kind).to_owned()),
                organization: named("org_name", "org_id"),
                environment: named("tenant_name", "tenant_id"),
                fingerprint,
            };
        }
        known.clone()
    }

    fn page(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>sitecore-auth proxy</title>\n\
             <link rel=\"icon\" href=\"/icon.svg\">\n\
             <link rel=\"stylesheet\" href=\"/page.css\">\n\
             <script src=\"/page.js\" defer></script>\n</head>\n<body>\n\
             <header><h1>sitecore-auth <span>proxy</span></h1><p id=\"live\">a snapshot; reload the page for a new one</p></header>\n\
             <main>{}</main>\n</body>\n</html>\n",
            self.main()
        )
    }

    fn main(&self) -> String {
        let mut html = String::new();
        for account in self.accounts() {
            html.push_str(&account_card(&account));
        }
        html.push_str(&table(&self.records.latest(), self.records.in_flight()));
        html
    }
}

fn account_card(account: &Account) -> String {
    let Account { source, apis, owner, status } = account;
    let (state, label) = match (status.freshness(), status.last_error()) {
        (Some(Freshness::Fresh), None) => ("fresh", "fresh"),
        // For example, an API rejected it.
        (Some(Freshness::Fresh), Some(_)) => ("stale", "fresh, but its replacement failed"),
        (Some(Freshness::Stale), None) => ("stale", "stale, still in use"),
        (Some(Freshness::Stale), Some(_)) => ("stale", "stale, still in use; the refresh failed"),
        (_, Some(_)) => ("failed", "no token"),
        (Some(_), None) => ("idle", "expired; the next call gets a new one"),
        (None, None) => ("idle", "not used yet"),
    };
    let kind = owner.client_kind.as_deref().unwrap_or("unknown").replace('_', " ");
    let unknown = || "–".to_owned();
    let mut facts = vec![
        ("Client", kind),
        ("Organization", owner.organization.clone().unwrap_or_else(unknown)),
        ("Environment", owner.environment.clone().unwrap_or_else(unknown)),
        ("Time left", status.usable_for().map_or_else(unknown, words)),
        (
            if status.last_error().is_some() { "Next attempt" } else { "Next refresh" },
            match status.is_refreshing() {
                true => "in progress".to_owned(),
                false => status.next_attempt_in().map_or_else(unknown, |wait| {
                    if wait.is_zero() {
                        "with the next call".to_owned()
                    } else {
                        format!("in {}", words(wait))
                    }
                }),
            },
        ),
        ("Token", status.fingerprint().map_or_else(unknown, |it| it.to_string())),
    ];
    if let Some(at) = status.expires_at() {
        facts.insert(4, ("Expires", at.format("%Y-%m-%d %H:%M UTC").to_string()));
    }
    let facts = facts.iter().fold(String::new(), |mut html, (name, value)| {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
        html
    });
    let error = status.last_error().map_or_else(String::new, |error| {
        format!("<p class=\"error\">{}</p>", escape(&printable(&for_shells(&error.cause()))))
    });
    format!(
        "<section class=\"card\"><h2>{}</h2><p class=\"source\">{}</p>\
         <p class=\"state {state}\">{label}</p>{}<dl>{facts}</dl>{error}</section>",
        escape(&apis.join(", ")),
        escape(source),
        bar(status),
    )
}

/// Draws a token's lifetime: fresh, stale, and how much of it has passed.
fn bar(status: &CacheStatus) -> String {
    let (Some(age), Some(left)) = (status.age(), status.usable_for()) else {
        return String::new();
    };
    let whole = (age + left).as_secs_f64().max(1.0);
    let at = |time: Duration| (time.as_secs_f64() / whole).clamp(0.0, 1.0) * BAR;
    let is_fresh = status.freshness() == Some(Freshness::Fresh);
    let stale_at = match (is_fresh, status.next_attempt_in()) {
        (true, Some(wait)) => at(age + wait),
        (true, None) => BAR,
        // It has become stale, and the status does not say when.
        (false, _) => 0.0,
    };
    let now = at(age);
    let cooldown = match (status.last_error(), status.next_attempt_in()) {
        (Some(_), Some(wait)) if !is_fresh => {
            let width = at(wait).clamp(4.0, BAR - now.min(BAR - 4.0));
            format!("<rect class=\"cooldown\" x=\"{now:.0}\" width=\"{width:.0}\" height=\"24\"/>")
        }
        _ => String::new(),
    };
    format!(
        "<svg class=\"bar\" viewBox=\"0 0 1000 24\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{} of {} have passed\">\
         <rect class=\"fresh\" width=\"{stale_at:.0}\" height=\"24\"/>\
         <rect class=\"stale\" x=\"{stale_at:.0}\" width=\"{:.0}\" height=\"24\"/>{cooldown}\
         <rect class=\"passed\" width=\"{now:.0}\" height=\"24\"/>\
         <rect class=\"now\" x=\"{:.0}\" width=\"4\" height=\"24\"/></svg>\
         <p class=\"legend\"><span class=\"fresh\">fresh</span><span class=\"stale\">stale</span>{}</p>",
        words(age),
        words(age + left),
        BAR - stale_at,
        now.min(BAR - 4.0),
        if cooldown.is_empty() { "" } else { "<span class=\"cooldown\">cooldown</span>" },
    )
}

fn table(records: &[Record], in_flight: usize) -> String {
    let mut html =
        format!("<section><h2>Requests</h2><p class=\"source\">{in_flight} in flight</p>");
    if records.is_empty() {
        html.push_str("<p>No requests yet.</p></section>");
        return html;
    }
    html.push_str("<div class=\"scroll\"><table><thead><tr><th>Time (UTC)</th><th>Method</th><th>API</th><th>Path</th><th class=\"number\">Status</th><th class=\"number\">Duration</th><th class=\"number\">Waited</th><th>Notes</th></tr></thead><tbody>");
    for record in records {
        let class = match record.status {
            0 | 500.. => "bad",
            400.. => "odd",
            _ => "good",
        };
        let notes = match (record.status, record.is_own_error, record.is_replayed) {
            (0, ..) => "abandoned",
            (_, true, _) => "error of the proxy",
            (_, false, true) => "replayed",
            (_, false, false) => "",
        };
        let status = if record.status == 0 { "–".to_owned() } else { record.status.to_string() };
        let _ = write!(
            html,
            "<tr class=\"{class}\"><td>{}</td><td>{}</td><td>{}</td><td class=\"path\">{}</td>\
             <td class=\"number status\">{status}</td><td class=\"number\">{} ms</td><td class=\"number\">{} ms</td>\
             <td>{notes}</td></tr>",
            record.at.format("%H:%M:%S"),
            escape(&record.method),
            record.upstream,
            escape(&record.path),
            record.milliseconds,
            record.waited_milliseconds,
        );
    }
    html.push_str("</tbody></table></div></section>");
    html
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    escaped
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = content("text/plain; charset=utf-8", text.into());
    *response.status_mut() = status;
    response
}

fn content(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(text)));
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_is_escaped() {
        assert_eq!(escape("<b a='1' c=\"2\">&"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;");
    }
}
