//! The APIs: their URLs, whose credentials they need, and clients for them.

use std::{
    collections::BTreeMap,
    env::{self, VarError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::BytesMut;
use http::{Extensions, StatusCode};
use reqwest::{Request, Response, header::CONTENT_TYPE};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use sitecore_auth::{AuthMiddleware, Target, TokenCache, WrongClient, edge::EdgeKey};
use tokio::time::timeout;
use url::Url;

use crate::{
    args::{Api, Common},
    config::Config,
    failure::{Failure, Kind, Result},
    login::Login,
    terminal::{hide, printable},
};

const DEPLOY: &str = "https://xmclouddeploy-api.sitecorecloud.io";
const EDGE: &str = "https://edge.sitecorecloud.io";

/// How long a body that is only shown may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(1);

/// How many bytes of such a body are read.
const MAX_SHOWN: usize = 64 * 1024;

const AUTHORING_PATH: &str = "/sitecore/api/authoring/graphql/v1/";
const DELIVERY_PATH: &str = "/api/graphql/v1";

impl Api {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Authoring => "authoring",
            Self::Deploy => "deploy",
            Self::Edge => "edge",
            Self::Delivery => "delivery",
        }
    }

    /// Returns the name of the credentials that the configuration file assigns to this API.
    pub(crate) fn assigned(self, config: &Config) -> Option<&str> {
        let apis = config.apis();
        let name = match self {
            Self::Authoring => &apis.authoring,
            Self::Deploy => &apis.deploy,
            Self::Edge => &apis.edge,
            Self::Delivery => &None,
        };
        name.as_deref()
    }

    /// Returns the URL of the API: for Authoring and Delivery that of the GraphQL endpoint,
    /// otherwise the origin. `host` was given on the command line.
    pub(crate) fn url(self, host: Option<&str>, config: &Config) -> Result<Url> {
        let hosts = config.hosts();
        let (configured, name, variable, default) = match self {
            Self::Authoring => (&hosts.authoring, "authoring", "SITECORE_AUTHORING_URL", None),
            Self::Deploy => (&hosts.deploy, "deploy", "SITECORE_DEPLOY_URL", Some(DEPLOY)),
            Self::Edge | Self::Delivery => (&hosts.edge, "edge", "SITECORE_EDGE_URL", Some(EDGE)),
        };
        let host = host.filter(|_| self == Self::Authoring);
        let host = host.map(|host| ("the host of the CM".to_owned(), host));
        let from_variable = match env::var(variable) {
            Err(VarError::NotUnicode(_)) => {
                return Err(Failure::config(format!("the variable {variable} is not valid UTF-8")));
            }
            value => value.ok().filter(|url| !url.trim().is_empty()),
        };
        let from_variable = from_variable.as_deref().map(|url| (variable.to_owned(), url));
        let configured = configured.as_deref().map(|url| (format!("[hosts] {name}"), url));
        let is_flag = host.is_some();
        let found = host.or(from_variable).or(configured);
        let found = found.or_else(|| Some((String::new(), default?)));
        let (place, text) = found.ok_or_else(|| {
            Failure::usage("the host of the CM is not known")
                .hint("give --host (for a proxy: --authoring), set SITECORE_AUTHORING_URL, or add [hosts] authoring to sitecore-auth.toml")
        })?;
        let text = text.trim();
        let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let parsed = Url::parse(&url).map_err(|error| error.to_string()).and_then(|url| {
            match url.username().is_empty() && url.password().is_none() {
                true => Ok(url),
                false => Err("it contains a user name".to_owned()),
            }
        });
        let kind = if is_flag { Kind::Usage } else { Kind::Config };
        let mut url = parsed.map_err(|error| {
            // A password is not repeated.
            let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
            Failure::new(kind, format!("{place}: `{shown}` is not a host or a URL: {error}"))
        })?;
        match self {
            Self::Authoring if ["", "/sitecore"].contains(&url.path().trim_end_matches('/')) => {
                url.set_path(AUTHORING_PATH);
            }
            Self::Delivery => url.set_path(DELIVERY_PATH),
            _ => {}
        }
        let is_clear = url.scheme() == "http" && !sitecore_token::is_loopback(&url);
        let checked = match is_clear {
            true => Err(Failure::config("http would send the token in clear text; use https")),
            false => self.target(&url),
        };
        checked.map_err(|failure| Failure::new(kind, format!("{place}: {failure}")))?;
        Ok(url)
    }

    pub(crate) fn target(self, url: &Url) -> Result<Target> {
        let target = match self {
            Self::Authoring => Target::authoring(url.as_str()),
            Self::Deploy => Target::deploy().with_origin(origin(url)),
            Self::Edge => Target::edge_admin().with_origin(origin(url)),
            Self::Delivery => Target::edge_delivery().with_origin(origin(url)),
        };
        Ok(target?)
    }
}

/// An API that is ready to be called.
pub(crate) struct Ready {
    pub(crate) url: Url,
    pub(crate) client: ClientWithMiddleware,
    pub(crate) cache: TokenCache,
}

/// Prepares an API with the credentials that belong to it.
pub(crate) async fn prepare(
    api: Api,
    host: Option<&str>,
    common: &Common,
    config: &Config,
) -> Result<Ready> {
    let url = api.url(host, config)?;
    let cache = match api {
        Api::Delivery => TokenCache::new(EdgeKey::from_env()?),
        _ => Login::find(common, config, Some(api))?.cache(common).await?,
    };
    ready(api, url, cache)
}

/// Prepares an API that is called with the tokens of this cache.
pub(crate) fn ready(api: Api, url: Url, cache: TokenCache) -> Result<Ready> {
    let auth = AuthMiddleware::builder(cache.clone()).target(api.target(&url)?);
    let http = reqwest::Client::builder()
        .user_agent(concat!("sitecore-auth-cli/", env!("CARGO_PKG_VERSION")));
    let client = auth.require_target(true).build()?.into_client(http)?;
    let client = ClientBuilder::from_client(client).with(HideSecrets).build();
    Ok(Ready { url, client, cache })
}

/// A middleware behind the one that adds the token. It keeps that token out of all output.
struct HideSecrets;

#[async_trait]
impl Middleware for HideSecrets {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        request.headers().values().filter(|value| value.is_sensitive()).for_each(hide);
        next.run(request, extensions).await
    }
}

pub(crate) fn origin(url: &Url) -> Url {
    let mut origin = url.clone();
    origin.set_path("/");
    origin.set_query(None);
    origin.set_fragment(None);
    origin
}

/// Returns the failure of a response with an error status.
pub(crate) async fn failure(response: Response) -> Failure {
    let failure = FailedResponse::of(&response);
    failure.with_body(&start_of(response).await)
}

/// Reads the start of a body that is only shown, but does not wait for it for long.
pub(crate) async fn start_of(mut response: Response) -> String {
    let mut start = BytesMut::new();
    let read = async {
        while start.len() < MAX_SHOWN {
            let Ok(Some(chunk)) = response.chunk().await else { break };
            start.extend_from_slice(&chunk);
        }
    };
    let _ = timeout(BODY_TIME, read).await;
    String::from_utf8_lossy(&start).into_owned()
}

/// What the head of a response with an error status says.
struct FailedResponse {
    status: StatusCode,
    host: String,
    wrong: Option<WrongClient>,
    retry_after: Option<Duration>,
    is_html: bool,
    is_delivery: bool,
}

impl FailedResponse {
    fn of(response: &Response) -> Self {
        Self {
            status: response.status(),
            host: response.url().host_str().unwrap_or_default().to_owned(),
            wrong: response.extensions().get().copied(),
            retry_after: sitecore_token::retry_after_from_now(response.headers()),
            is_html: is_html(response),
            is_delivery: response.url().path() == DELIVERY_PATH,
        }
    }

    fn with_body(self, body: &str) -> Failure {
        let Self { status, host, wrong, retry_after, is_html, is_delivery } = self;
        let message = match body.trim().is_empty() || is_html {
            true => format!("{host} returned status {status}"),
            false => format!("{host} returned status {status}: {}", printable(body.trim())),
        };
        let status = status.as_u16();
        if status == 429 || status >= 500 {
            let failure = Failure::new(Kind::Unavailable, message).retry_after(retry_after);
            return match is_html {
                true => failure.hint("a CM that was idle takes some minutes to start"),
                false => failure,
            };
        }
        let failure = Failure::api(message);
        let hint = match (wrong, status) {
            (Some(wrong), _) => wrong_client(wrong),
            (None, 304) => return failure,
            (None, 300..=399) => {
                "redirects out of the API are not followed; check the host".to_owned()
            }
            (None, 401 | 403) if is_delivery => {
                "check the key in SITECORE_EDGE_TOKEN; `edge-key create` creates another".to_owned()
            }
            (None, 401) => "the API rejected the token and its replacement; check the audience and the kind of client".to_owned(),
            (None, 403) => {
                "the token was accepted, but its client is not allowed to do this".to_owned()
            }
            (None, 407) => "a proxy on the way requires a user name and a password".to_owned(),
            _ => return failure,
        };
        failure.hint(hint)
    }
}

/// Says which kind of client an API requires instead of the one that was used.
pub(crate) fn wrong_client(wrong: WrongClient) -> String {
    let (required, used) = (wrong.required(), wrong.used());
    format!("this API usually requires {required}, but these credentials belong to {used}")
}

pub(crate) fn is_html(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
}

/// The body of a GraphQL request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Query {
    pub(crate) query: String,
    /// As they were given, because numbers may be longer than a float.
    pub(crate) variables: BTreeMap<String, Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operation_name: Option<String>,
}

impl Query {
    pub(crate) fn new(query: impl Into<String>) -> Self {
        Self { query: query.into(), variables: BTreeMap::new(), operation_name: None }
    }
}

/// Sends a GraphQL request and returns `data` as the API wrote it.
pub(crate) async fn graphql(ready: &Ready, query: &Query) -> Result<Box<RawValue>> {
    data(ready, send_query(ready, query).await?).await
}

/// Sends a GraphQL request.
pub(crate) async fn send_query(ready: &Ready, query: &Query) -> Result<Response> {
    Ok(ready.client.post(ready.url.clone()).json(query).send().await?)
}

/// Returns `data` of a response to a GraphQL request, as the API wrote it.
pub(crate) async fn data(ready: &Ready, response: Response) -> Result<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Reply {
        data: Option<Box<RawValue>>,
        #[serde(default)]
        errors: Value,
    }
    let status = response.status();
    // A CM can be set to respond to errors with 400 or 500.
    if !status.is_success() && (is_html(&response) || ![400, 500].contains(&status.as_u16())) {
        return Err(failure(response).await);
    }
    if is_html(&response) {
        let host = ready.url.host_str().unwrap_or_default();
        return Err(Failure::api(format!("{host} returned a web page instead of JSON"))
            .hint("a CM that was idle takes some minutes to start; otherwise check the URL"));
    }
    let failed = FailedResponse::of(&response);
    let text = response.text().await?;
    // The parser would accept an array for an object.
    let is_object = text.trim_start_matches('\u{feff}').trim_start().starts_with('{');
    let reply = serde_json::from_str::<Reply>(&text).ok().filter(|_| is_object);
    let Some(reply) = reply else {
        return Err(match status.is_success() {
            true => {
                Failure::api(format!("the response (status {status}) is not a GraphQL response"))
            }
            false => failed.with_body(&text),
        });
    };
    let errors = match reply.errors {
        Value::Null => Vec::new(),
        Value::Array(errors) => errors,
        other => vec![other],
    };
    if !errors.is_empty() {
        let messages: Vec<_> = errors.iter().map(describe).collect();
        let failure = Failure::api(messages.join("\n"));
        let code = |error: &Value| {
            error.pointer("/extensions/code") == Some(&json!("AUTH_NOT_AUTHENTICATED"))
        };
        return Err(match errors.iter().any(code) {
            true => failure.hint("the API does not accept the token; check the audience"),
            false => failure,
        });
    }
    match reply.data.filter(|data| data.get() != "null") {
        Some(data) if status.is_success() => Ok(data),
        _ if !status.is_success() => Err(failed.with_body(&text)),
        _ => Err(Failure::api(format!("the response with status {status} contains no data"))),
    }
}

/// Describes a GraphQL error on one line: its message and where it is.
fn describe(error: &Value) -> String {
    let message = error.get("message").and_then(Value::as_str);
    let path = error.get("path").and_then(Value::as_array).map(|path| {
        let parts =
            path.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned));
        format!(" (at {})", parts.collect::<Vec<_>>().join("."))
    });
    printable(&format!(
        "{}{}",
        message.unwrap_or("an error without a message"),
        path.unwrap_or_default()
    ))
}
