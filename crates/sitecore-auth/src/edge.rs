//! Keys for the Delivery API of Experience Edge, which takes no JWT: as a source for a cache, and as calls
//! that make, list, rename and revoke them.
//!
//! ```no_run
//! # async fn example(deploy: reqwest_middleware::ClientWithMiddleware) -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_auth::{AuthMiddleware, Target, TokenCache, edge::EdgeKeySource, redirect_policy};
//!
//! // `deploy` is a client with a layer of its own: an organization automation client's.
//! let keys = EdgeKeySource::deploy_api(deploy, "2zYj6uPbNq0sWq0Nc9rU1d");
//! let auth = AuthMiddleware::builder(TokenCache::new(keys)).target(Target::edge_delivery()).build()?;
//! let http = reqwest::Client::builder().redirect(redirect_policy()).build()?;
//! let delivery = reqwest_middleware::ClientBuilder::new(http).with(auth).build();
//! # Ok(())
//! # }
//! ```

use std::{fmt, time::Duration};

use async_trait::async_trait;
use http::{HeaderName, Method, StatusCode, header::CONTENT_TYPE, header::RETRY_AFTER};
use reqwest::Response;
use reqwest_middleware::ClientWithMiddleware;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{ClientKind, Error, ErrorKind, Result, Token, TokenSource};

/// The header that carries Edge keys.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("sc_apikey");

const DEPLOY: &str = "https://xmclouddeploy-api.sitecorecloud.io/";
const EDGE: &str = "https://edge.sitecorecloud.io/";

/// What a key must be allowed to read the Delivery API; Sitecore knows no others.
const SCOPES: [&str; 2] = ["audience-delivery", "content-#everything#"];

/// Gets an environment's Edge key from the Deploy API (`obtain-edge-token`): a source whose tokens go into
/// `sc_apikey` and do not expire. Put the layer that uses it on [`Target::edge_delivery`], and no other: then
/// the JWT and the key never meet.
///
/// [`Target::edge_delivery`]: crate::Target::edge_delivery
#[derive(Clone)]
pub struct EdgeKeySource {
    client: ClientWithMiddleware,
    url: Url,
}

impl EdgeKeySource {
    /// Asks the Deploy API through a client whose layer has it as a target.
    #[must_use]
    pub fn deploy_api(client: ClientWithMiddleware, environment_id: impl AsRef<str>) -> Self {
        let path = ["api", "environments", "v1", environment_id.as_ref(), "obtain-edge-token"];
        Self { client, url: below(constant(DEPLOY), path) }
    }

    /// Asks at another origin: a proxy, a test server.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is more than an origin, or http outside loopback.
    pub fn at(mut self, origin: Url) -> Result<Self> {
        self.url = moved(&self.url, origin)?;
        Ok(self)
    }
}

#[async_trait]
impl TokenSource for EdgeKeySource {
    async fn fetch(&self, _replacing: Option<&Token>) -> Result<Token> {
        #[derive(Deserialize)]
        struct Obtained {
            #[serde(rename = "apiKey")]
            api_key: String,
        }
        if self.url.path().contains("//") || self.url.path().contains('%') {
            return Err(Error::new(
                ErrorKind::Config,
                "the environment id is empty, or has characters that no id has",
            ));
        }
        let call = self.client.get(self.url.clone());
        let answer: Obtained = json(sent(call, ClientKind::Organization).await?).await?;
        Token::api_key(API_KEY, answer.api_key)
    }
}

impl fmt::Debug for EdgeKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeKeySource").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// The Token API, reached through a client whose layer has [`Target::edge_admin`](crate::Target::edge_admin),
/// with the credentials of an Edge administration client. The functions of this module take such a client
/// as it is, or this, if the API is [elsewhere](Self::at).
#[derive(Clone)]
pub struct TokenApi {
    client: ClientWithMiddleware,
    url: Url,
}

impl TokenApi {
    /// Says that the API is at another origin: a proxy, a test server.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is more than an origin, or http outside loopback.
    pub fn at(mut self, origin: Url) -> Result<Self> {
        self.url = moved(&self.url, origin)?;
        Ok(self)
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<Response> {
        let mut url = below(self.url.clone(), path.iter().copied());
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut call = self.client.request(method, url);
        if let Some(body) = body {
            let body =
                serde_json::to_vec(body).map_err(|error| Error::new(ErrorKind::Config, error))?;
            call = call.header(CONTENT_TYPE, "application/json").body(body);
        }
        sent(call, ClientKind::EdgeAdministration).await
    }
}

impl From<ClientWithMiddleware> for TokenApi {
    fn from(client: ClientWithMiddleware) -> Self {
        let url = below(constant(EDGE), ["api", "apikey", "v1"]);
        Self { client, url }
    }
}

impl From<&ClientWithMiddleware> for TokenApi {
    fn from(client: &ClientWithMiddleware) -> Self {
        client.clone().into()
    }
}

impl From<&Self> for TokenApi {
    fn from(api: &Self) -> Self {
        api.clone()
    }
}

impl fmt::Debug for TokenApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenApi").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// What the Token API tells about a key; never the key itself.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct KeyInfo {
    /// What [`rename_key`] and [`revoke_key`] want.
    #[serde(alias = "Hash", default)]
    pub hash: String,
    /// What the key was called when it was made, or renamed to since.
    #[serde(alias = "Label", default)]
    pub label: String,
    /// Who made it.
    #[serde(alias = "CreatedBy", alias = "createdBy", default)]
    pub created_by: String,
    /// What it may be used for.
    #[serde(alias = "Scopes", default)]
    pub scopes: Vec<String>,
    /// Whether it has been revoked.
    #[serde(alias = "Revoked", alias = "isRevoked", alias = "IsRevoked", default)]
    pub revoked: bool,
}

/// Makes a key for the Delivery API. **It lives until somebody revokes it**, and is shown this once: keep it,
/// and [revoke](revoke_key) it when it is no longer needed. A program that wants to read the Delivery API
/// needs none of its own: it asks for its environment's with [`EdgeKeySource`].
///
/// # Errors
///
/// As the layer's, if there is no token; [`Refused`](ErrorKind::Refused) if the client is of another kind;
/// [`Malformed`](ErrorKind::Malformed) if the answer is no key.
///
/// # Cancel safety
///
/// Dropping the future after the request was sent can leave a key behind that nobody knows: look for its
/// label with [`list_keys`].
pub async fn create_key(api: impl Into<TokenApi>, label: impl AsRef<str>) -> Result<SecretString> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Wanted<'a> {
        created_by: &'a str,
        label: &'a str,
        scopes: [&'a str; 2],
    }
    let wanted =
        Wanted { created_by: env!("CARGO_PKG_NAME"), label: label.as_ref(), scopes: SCOPES };
    let answer = api.into().call(Method::POST, &[], &[], Some(&wanted)).await?;
    let key = answer.text().await.map_err(unavailable)?;
    // Plain text, which may be quoted.
    let key = key.trim().trim_matches('"');
    Token::api_key(API_KEY, key)?;
    Ok(key.into())
}

/// Lists the keys with this label, or all, without those that have been revoked.
///
/// # Errors
///
/// As [`create_key`].
///
/// # Cancel safety
///
/// Nothing is changed, whenever the future is dropped.
pub async fn list_keys(api: impl Into<TokenApi>, label: Option<&str>) -> Result<Vec<KeyInfo>> {
    let mut query = vec![("filterRevoked", "true")];
    query.extend(label.map(|label| ("label", label)));
    let answer = api.into().call(Method::GET, &[], &query, None::<&()>).await?;
    json(answer).await
}

/// Gives a key another label.
///
/// # Errors
///
/// As [`create_key`]; [`Config`](ErrorKind::Config) if there is no such key.
///
/// # Cancel safety
///
/// Dropping the future after the request was sent leaves open whether it was done; repeat it.
pub async fn rename_key(api: impl Into<TokenApi>, hash: &str, label: &str) -> Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Renamed<'a> {
        label: &'a str,
    }
    let path = ["renamebyhash", hash];
    api.into().call(Method::PUT, &path, &[], Some(&Renamed { label })).await.map(drop)
}

/// Revokes a key, for good.
///
/// # Errors
///
/// As [`rename_key`].
///
/// # Cancel safety
///
/// As [`rename_key`].
pub async fn revoke_key(api: impl Into<TokenApi>, hash: &str) -> Result<()> {
    let path = ["revokebyhash", hash];
    api.into().call(Method::PUT, &path, &[], None::<&()>).await.map(drop)
}

/// Sends a call, and makes an error of an answer that is no success.
async fn sent(call: reqwest_middleware::RequestBuilder, wanted: ClientKind) -> Result<Response> {
    let answer = call.send().await.map_err(|error| match error {
        reqwest_middleware::Error::Middleware(error) => match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => Error::new(ErrorKind::Unavailable, error),
        },
        reqwest_middleware::Error::Reqwest(error) => unavailable(error),
    })?;
    let status = answer.status();
    let said = format!("{} answered {status}", answer.url().host_str().unwrap_or_default());
    Err(match status {
        _ if status.is_success() => return Ok(answer),
        StatusCode::UNAUTHORIZED => {
            let message = format!(
                "{said}: is it a target of the client's layer, with the token of {wanted}?"
            );
            Error::new(ErrorKind::Refused, message)
        }
        StatusCode::FORBIDDEN => {
            Error::new(ErrorKind::Refused, format!("{said}: it wants {wanted}"))
        }
        StatusCode::TOO_MANY_REQUESTS => {
            let error = Error::new(ErrorKind::RateLimited, said);
            let wait = answer
                .headers()
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.parse().ok());
            match wait {
                Some(wait) => error.with_retry_after(Duration::from_secs(wait)),
                None => error,
            }
        }
        StatusCode::NOT_FOUND => {
            Error::new(ErrorKind::Config, format!("{said}: check the id or hash that was given"))
        }
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            Error::new(ErrorKind::Unavailable, said)
        }
        _ => Error::new(ErrorKind::Malformed, said),
    })
}

/// Reads JSON; what was read is in no error, for it may hold a key.
async fn json<T: for<'de> Deserialize<'de>>(answer: Response) -> Result<T> {
    let body = answer.bytes().await.map_err(unavailable)?;
    serde_json::from_slice(&body).map_err(|error| {
        let message = format!(
            "{} bytes that are not the JSON expected, at line {}",
            body.len(),
            error.line()
        );
        Error::new(ErrorKind::Malformed, message)
    })
}

fn unavailable(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Unavailable, error)
}

/// Returns the same path at another origin, which is checked as a target's is.
fn moved(url: &Url, mut origin: Url) -> Result<Url> {
    crate::Target::origin(origin.clone())?;
    origin.set_path(url.path());
    Ok(origin)
}

fn below<'a>(mut url: Url, path: impl IntoIterator<Item = &'a str>) -> Url {
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

fn constant(url: &str) -> Url {
    Url::parse(url).expect("a constant is a URL")
}
