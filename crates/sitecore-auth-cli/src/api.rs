//! The APIs: their URLs, whose credentials they need, and clients for them.

use std::env;

use reqwest::Response;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, Target, TokenCache, WrongClient};
use url::Url;

use crate::{
    args::{Api, Common},
    config::Config,
    failure::{Failure, Kind, Result},
    login::Login,
};

const DEPLOY: &str = "https://xmclouddeploy-api.sitecorecloud.io";
const EDGE: &str = "https://edge.sitecorecloud.io";
const AUTHORING_PATH: &str = "/sitecore/api/authoring/graphql/v1/";
const DELIVERY_PATH: &str = "/api/graphql/v1";

/// How much of an error's body is quoted.
const MAX_QUOTED: usize = 2_000;

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
        let (given, variable, default) = match self {
            Self::Authoring => {
                (host.or(hosts.authoring.as_deref()), "SITECORE_AUTHORING_URL", None)
            }
            Self::Deploy => (hosts.deploy.as_deref(), "SITECORE_DEPLOY_URL", Some(DEPLOY)),
            Self::Edge | Self::Delivery => (hosts.edge.as_deref(), "SITECORE_EDGE_URL", Some(EDGE)),
        };
        let from_variable = env::var(variable).ok().filter(|url| !url.trim().is_empty());
        let text =
            given.map(str::to_owned).or(from_variable).or_else(|| default.map(str::to_owned));
        let text = text.ok_or_else(|| {
            Failure::usage("the host of the CM is not known")
                .hint("give --host, set SITECORE_AUTHORING_URL, or add [hosts] authoring to sitecore-auth.toml")
        })?;
        let text = text.trim();
        let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let mut url = Url::parse(&url)
            .map_err(|error| Failure::usage(format!("`{text}` is not a host or a URL: {error}")))?;
        match self {
            Self::Authoring if url.path() == "/" => url.set_path(AUTHORING_PATH),
            Self::Delivery => url.set_path(DELIVERY_PATH),
            _ => {}
        }
        Ok(url)
    }

    fn target(self, url: &Url) -> Result<Target> {
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
pub(crate) fn prepare(
    api: Api,
    host: Option<&str>,
    common: &Common,
    config: &Config,
) -> Result<Ready> {
    let url = api.url(host, config)?;
    let cache = match api {
        Api::Delivery => TokenCache::new(sitecore_auth::edge::EdgeKey::from_env()?),
        _ => Login::find(common, config, api.assigned(config))?.cache(common)?,
    };
    let client = client(api, &url, cache.clone())?;
    Ok(Ready { url, client, cache })
}

fn client(api: Api, url: &Url, cache: TokenCache) -> Result<ClientWithMiddleware> {
    let auth = AuthMiddleware::builder(cache).target(api.target(url)?).require_target(true);
    let http = reqwest::Client::builder()
        .user_agent(concat!("sitecore-auth-cli/", env!("CARGO_PKG_VERSION")));
    Ok(auth.build()?.into_client(http)?)
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
    let (status, host) = (response.status(), response.url().host_str().unwrap_or("").to_owned());
    let wrong = response.extensions().get::<WrongClient>().copied();
    let is_html = is_html(&response);
    let body = response.text().await.unwrap_or_default();
    let quoted: String = body.chars().filter(|char| !char.is_control()).take(MAX_QUOTED).collect();
    let message = match quoted.is_empty() || is_html {
        true => format!("{host} returned status {status}"),
        false => format!("{host} returned status {status}: {quoted}"),
    };
    let kind = match status.as_u16() {
        429 | 502..=504 => Kind::Unavailable,
        _ => Kind::Api,
    };
    let failure = Failure::new(kind, message);
    match (wrong, status.as_u16()) {
        (Some(wrong), _) => failure.hint(format!(
            "this API usually requires {}, and these credentials are of {}",
            wrong.required(),
            wrong.used()
        )),
        (None, 401) => failure.hint("the API rejected the token and its replacement; check the audience and the kind of client with `sitecore-auth check`"),
        (None, 403) => failure.hint("the token was accepted, but its client is not allowed to do this"),
        _ => failure,
    }
}

pub(crate) fn is_html(response: &Response) -> bool {
    let kind = response.headers().get(reqwest::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
}

/// Sends a GraphQL request and returns `data`.
pub(crate) async fn graphql(ready: &Ready, body: &Value) -> Result<Value> {
    let response = ready.client.post(ready.url.clone()).json(body).send().await?;
    if is_html(&response) {
        let host = ready.url.host_str().unwrap_or_default();
        let message = format!("{host} returned a web page instead of JSON");
        return Err(Failure::api(message)
            .hint("a CM that was idle takes some minutes to start; otherwise check the URL"));
    }
    let status = response.status();
    if !status.is_success() && status.as_u16() != 400 && status.as_u16() != 500 {
        return Err(failure(response).await);
    }
    let text = response.text().await?;
    let Ok(mut result) = serde_json::from_str::<Value>(&text) else {
        let message = format!("the response with status {status} is not JSON");
        return Err(Failure::api(message));
    };
    let errors = result["errors"].as_array().filter(|errors| !errors.is_empty());
    if let Some(errors) = errors {
        let messages: Vec<_> = errors.iter().map(describe).collect();
        let failure = Failure::api(messages.join("\n"));
        let code = |error: &Value| error["extensions"]["code"] == json!("AUTH_NOT_AUTHENTICATED");
        return Err(match errors.iter().any(code) {
            true => failure.hint("the API does not accept the token; try `sitecore-auth check`"),
            false => failure,
        });
    }
    if !status.is_success() {
        return Err(Failure::api(format!("the API returned status {status}")));
    }
    Ok(result["data"].take())
}

/// Describes a GraphQL error on one line: its message and where it is.
fn describe(error: &Value) -> String {
    let message = error["message"].as_str().unwrap_or("an error without a message");
    let path = error["path"].as_array().map(|path| {
        let parts =
            path.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned));
        format!(" (at {})", parts.collect::<Vec<_>>().join("."))
    });
    format!("{message}{}", path.unwrap_or_default())
}
