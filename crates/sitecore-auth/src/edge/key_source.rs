//! Obtains an environment's Edge key from the Deploy API.

use std::fmt;

use async_trait::async_trait;
use reqwest_middleware::ClientWithMiddleware;
use serde::Deserialize;
use sitecore_token::ClientKind;
use url::Url;

use super::call::{append_path, parse_json, parse_url, send, with_origin};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{FetchContext, TokenSource},
    target::API_KEY,
    token::Token,
};

const DEPLOY: &str = "https://xmclouddeploy-api.sitecorecloud.io/";

/// A source that obtains an environment's Edge key from the Deploy API (`obtain-edge-token`).
///
/// The keys are sent as `sc_apikey` and do not expire. Use the middleware with this source only for
/// [`Target::edge_delivery`], so that the key and the JWT are never sent together.
///
/// [`Target::edge_delivery`]: crate::Target::edge_delivery
#[derive(Clone)]
pub struct EdgeKeySource {
    client: ClientWithMiddleware,
    url: Url,
}

impl EdgeKeySource {
    /// Creates a source that calls the Deploy API through a client whose middleware has it as a
    /// target.
    #[must_use]
    pub fn deploy_api(client: ClientWithMiddleware, environment_id: impl AsRef<str>) -> Self {
        let path = ["api", "environments", "v1", environment_id.as_ref(), "obtain-edge-token"];
        Self { client, url: append_path(parse_url(DEPLOY), path) }
    }

    /// Sets another origin, such as a proxy or a test server.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the URL is not an origin, or uses http outside loopback.
    pub fn with_origin(mut self, origin: Url) -> Result<Self> {
        self.url = with_origin(&self.url, origin)?;
        Ok(self)
    }
}

#[async_trait]
impl TokenSource for EdgeKeySource {
    async fn fetch(&self, _context: FetchContext<'_>) -> Result<Token> {
        #[derive(Deserialize)]
        struct Obtained {
            #[serde(rename = "apiKey")]
            api_key: String,
        }
        if self.url.path().contains("//") || self.url.path().contains('%') {
            return Err(Error::new(
                ErrorKind::Config,
                "the environment id is empty or has invalid characters; use the id that the Deploy API shows",
            ));
        }
        let request = self.client.get(self.url.clone());
        let obtained: Obtained = parse_json(send(request, ClientKind::Organization).await?).await?;
        Token::api_key(API_KEY, obtained.api_key)
    }
}

impl fmt::Debug for EdgeKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeKeySource").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}
