//! What the examples share: which cloud they use and how they exit. It is not part of what they
//! show.
#![allow(dead_code, reason = "each example uses only some of these")]

use std::{process::ExitCode, time::Duration};

use reqwest_middleware::{ClientWithMiddleware, RequestBuilder};
use serde_json::{Value, json};
use sitecore_auth::{ClientCredentials, Endpoint, Target, TokenClient};
use sitecore_sandbox::{Api, Sandbox};
use tokio::time::Instant;
use url::Url;

pub(crate) type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// The embedded sandbox or, with the argument `--live`, Sitecore Cloud.
pub(crate) struct Cloud {
    pub(crate) sandbox: Option<Sandbox>,
}

/// The kind of client.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Environment,
    Organization,
    Edge,
}

impl Cloud {
    /// Reads the arguments. The lifetime applies to the sandbox's tokens.
    pub(crate) async fn from_args(token_lifetime: Duration) -> Result<Self> {
        let sandbox = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
            [] => Some(Sandbox::builder().token_lifetime(token_lifetime).start().await?),
            [live] if live == "--live" => None,
            _ => return Err("the only supported argument is --live".into()),
        };
        Ok(Self { sandbox })
    }

    /// A sandbox that the example has set up. Such an example does not support `--live`.
    pub(crate) fn of(sandbox: Sandbox) -> Result<Self> {
        match std::env::args().nth(1) {
            None => Ok(Self { sandbox: Some(sandbox) }),
            Some(_) => Err("this example runs only on the sandbox and takes no arguments".into()),
        }
    }

    /// A token client. With `--live`, the credentials come from `SITECORE_ENVIRONMENT_CLIENT_ID` or
    /// `SITECORE_EDGE_CLIENT_ID` for these kinds, and otherwise from `SITECORE_AUTH_CLIENT_ID`.
    pub(crate) fn tokens(&self, kind: Kind) -> Result<TokenClient> {
        let (credentials, endpoint) = match &self.sandbox {
            Some(sandbox) => {
                let client = match kind {
                    Kind::Environment => sandbox.environment(),
                    Kind::Organization => sandbox.organization(),
                    Kind::Edge => sandbox.edge_administration(),
                };
                let credentials = ClientCredentials::new(client.id(), client.secret());
                (credentials, Endpoint::new(sandbox.token_url(), sandbox.audience())?)
            }
            None => {
                let prefix = match kind {
                    Kind::Environment => "SITECORE_ENVIRONMENT",
                    Kind::Organization => "SITECORE_AUTH",
                    Kind::Edge => "SITECORE_EDGE",
                };
                let own = |part| std::env::var(format!("{prefix}_CLIENT_{part}")).ok();
                let credentials = match (own("ID"), own("SECRET")) {
                    (Some(id), Some(secret)) => ClientCredentials::new(id, secret),
                    _ => ClientCredentials::from_env()?,
                };
                (credentials, Endpoint::from_env()?)
            }
        };
        Ok(TokenClient::builder(credentials).endpoint(endpoint).build()?)
    }

    /// The target, on this cloud's origin.
    pub(crate) fn at(&self, target: Target, api: Api) -> Result<Target> {
        Ok(match &self.sandbox {
            Some(sandbox) => target.with_origin(sandbox.origin(api).clone())?,
            None => target.with_origin(live(api)?)?,
        })
    }

    /// The URL of the Authoring API. With `--live`, this is `SITECORE_AUTHORING_URL`.
    pub(crate) fn authoring_url(&self) -> Result<Url> {
        match &self.sandbox {
            Some(sandbox) => Ok(sandbox.authoring_url()),
            None => variable(
                "SITECORE_AUTHORING_URL",
                "https://<host>/sitecore/api/authoring/graphql/v1/",
            ),
        }
    }

    /// The Authoring API's target.
    pub(crate) fn authoring(&self) -> Result<Target> {
        Ok(Target::authoring(self.authoring_url()?)?)
    }

    /// A URL of the Deploy API or of Experience Edge.
    pub(crate) fn url(&self, api: Api, path: &str) -> Result<Url> {
        Ok(match &self.sandbox {
            Some(sandbox) => sandbox.url(api, path),
            None => live(api)?.join(path)?,
        })
    }
}

/// Sitecore's origin, or the one in the environment, such as that of a sandbox program.
fn live(api: Api) -> Result<Url> {
    let (name, own) = match api {
        Api::Deploy => ("SITECORE_DEPLOY_URL", "https://xmclouddeploy-api.sitecorecloud.io"),
        _ => ("SITECORE_EDGE_URL", "https://edge.sitecorecloud.io"),
    };
    Ok(Url::parse(&std::env::var(name).unwrap_or_else(|_| own.to_owned()))?)
}

/// Reads a URL from the environment.
fn variable(name: &str, example: &str) -> Result<Url> {
    let url = std::env::var(name)
        .map_err(|_| format!("{name} is not set (expected, for example, {example})"))?;
    Ok(Url::parse(&url).map_err(|error| format!("{name} is not a valid URL: {error}"))?)
}

/// Makes a GraphQL call. A response with errors is a failure, even with status 200.
pub(crate) async fn graphql(
    client: &ClientWithMiddleware,
    url: &Url,
    query: &str,
    variables: Value,
) -> Result<Value> {
    let body = json!({ "query": query, "variables": variables });
    let call = client.post(url.clone()).json(&body);
    let mut response: Value = call.send().await?.error_for_status()?.json().await?;
    match response["errors"].take() {
        Value::Null => Ok(response["data"].take()),
        errors => Err(format!("the API returned errors: {errors}").into()),
    }
}

/// Prints how long the work took.
pub(crate) async fn timed<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    let done = work.await?;
    println!("{what}: {:.1?}", started.elapsed());
    Ok(done)
}

/// The body of a successful response, as JSON.
pub(crate) async fn json_of(call: RequestBuilder) -> Result<Value> {
    Ok(call.send().await?.error_for_status()?.json().await?)
}

/// The `name` of each entry.
pub(crate) fn names(list: &Value) -> String {
    let entries = list.as_array().into_iter().flatten();
    entries.filter_map(|entry| entry["name"].as_str()).collect::<Vec<_>>().join(", ")
}

/// Ends the program. Prints an error with all its causes.
pub(crate) fn exit(run: Result<()>) -> ExitCode {
    let Err(error) = run else {
        return ExitCode::SUCCESS;
    };
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let causes = causes.map(|cause| format!(": {cause}")).collect::<String>();
    eprintln!("error: {error}{causes}");
    ExitCode::FAILURE
}
