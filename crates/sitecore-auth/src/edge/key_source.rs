//! Obtains an environment's Edge key from the Deploy API.

use std::fmt;

use async_trait::async_trait;
use reqwest_middleware::ClientWithMiddleware;
use serde::Deserialize;
use sitecore_token::ClientKind;
use url::Url;

use super::call::{append_path, check_segment, parse_json, parse_url, send, with_origin};
use crate::{
    error::Result,
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
    origin: Url,
    environment_id: String,
}

impl EdgeKeySource {
    /// Creates a source that calls the Deploy API through this client. Its middleware needs the
    /// target [`Target::deploy`](crate::Target::deploy).
    #[must_use]
    pub fn deploy_api(client: ClientWithMiddleware, environment_id: impl AsRef<str>) -> Self {
        let environment_id = environment_id.as_ref().to_owned();
        Self { client, origin: parse_url(DEPLOY), environment_id }
    }

    /// Sets another origin, such as a proxy or a test server.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the URL is not an origin, or uses http outside
    /// loopback.
    pub fn with_origin(mut self, origin: Url) -> Result<Self> {
        self.origin = with_origin(&self.origin, origin)?;
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
        let id = check_segment("environment id", &self.environment_id)?;
        let path = ["api", "environments", "v1", id, "obtain-edge-token"];
        let request = self.client.get(append_path(self.origin.clone(), path));
        let obtained: Obtained = parse_json(send(request, ClientKind::Organization).await?).await?;
        Token::api_key(API_KEY, obtained.api_key)
    }
}

impl fmt::Debug for EdgeKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeKeySource")
            .field("origin", &self.origin.as_str())
            .field("environment_id", &self.environment_id)
            .finish_non_exhaustive()
    }
}
