//! A fixed Edge key.

use std::fmt;

use async_trait::async_trait;
use secrecy::SecretString;
use sitecore_token::secret_from_env;

use crate::{
    error::{Error, ErrorKind, Result},
    source::{FetchContext, TokenSource},
    target::API_KEY,
    token::Token,
};

/// The variable that Sitecore's own libraries use for an Edge key.
const VARIABLE: &str = "SITECORE_EDGE_TOKEN";

/// A source that always returns the same Edge key. Use it for
/// [`Target::edge_delivery`](crate::Target::edge_delivery).
///
/// `Debug` does not show the key. The key is overwritten in memory when the last copy is dropped.
///
/// ```
/// # fn main() -> Result<(), sitecore_auth::Error> {
/// use sitecore_auth::{AuthMiddleware, Target, TokenCache, edge::EdgeKey, reqwest};
///
/// let cache = TokenCache::new(EdgeKey::new("bXktZWRnZS1rZXk=")?);
/// let auth = AuthMiddleware::builder(cache).target(Target::edge_delivery()).build()?;
/// let client = auth.into_client(reqwest::Client::builder())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EdgeKey(Token);

impl EdgeKey {
    /// Creates a source for this key.
    ///
    /// # Errors
    ///
    /// [`Malformed`](ErrorKind::Malformed) if the key cannot be the value of a header.
    pub fn new(key: impl Into<SecretString>) -> Result<Self> {
        Token::api_key(API_KEY, key).map(Self)
    }

    /// Reads the key from the variable `SITECORE_EDGE_TOKEN`.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the variable is missing or empty, is enclosed in quotation
    /// marks, or contains anything but printable ASCII.
    pub fn from_env() -> Result<Self> {
        let key = secret_from_env(VARIABLE)?.ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("{VARIABLE} is not set; set it to an Edge key"))
        })?;
        Self::new(key)
    }
}

#[async_trait]
impl TokenSource for EdgeKey {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Token> {
        if context.rejected() {
            return Err(Error::new(
                ErrorKind::Refused,
                "an API rejects this Edge key; check that it has not been revoked, that it belongs to this environment, and that the only target is the Delivery API",
            ));
        }
        Ok(self.0.clone())
    }
}

impl fmt::Debug for EdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EdgeKey").field(&self.0.fingerprint()).finish()
    }
}
