//! Creates, lists, renames and revokes keys for the Delivery API.

use std::fmt;

use http::{Method, header::CONTENT_TYPE};
use reqwest::Response;
use reqwest_middleware::ClientWithMiddleware;
use secrecy::{SecretString, zeroize::Zeroizing};
use serde::{Deserialize, Deserializer, Serialize};
use sitecore_token::ClientKind;
use url::Url;

use super::call::{
    append_path, check_segment, interrupted, parse_json, parse_url, send, with_origin,
};
use crate::{
    error::{Error, ErrorKind, Result},
    target::API_KEY,
    token::Token,
};

const EDGE: &str = "https://edge.sitecorecloud.io/";

/// The scopes that a key needs to read the Delivery API. Sitecore documents no others.
const SCOPES: [&str; 2] = ["audience-delivery", "content-#everything#"];

/// The number of keys per page.
const PAGE_SIZE: &str = "100";

/// More pages are not read.
const MAX_PAGES: u32 = 100;

/// A page of keys. The documentation and public clients spell the members differently.
#[derive(Deserialize)]
struct Page {
    #[serde(rename = "keys", alias = "Keys")]
    keys: Vec<KeyInfo>,
    #[serde(rename = "hasNext", alias = "HasNext", default)]
    has_next: bool,
}

/// The Token API of Experience Edge, which manages the keys for the Delivery API.
#[derive(Clone)]
pub struct TokenApi {
    client: ClientWithMiddleware,
    url: Url,
}

/// A description of a key. It never contains the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[non_exhaustive]
pub struct KeyInfo {
    /// The hash that [`TokenApi::rename_key`] and [`TokenApi::revoke_key`] require.
    #[serde(alias = "Hash")]
    pub hash: String,
    /// The key's current label.
    #[serde(alias = "Label", default, deserialize_with = "or_default")]
    pub label: String,
    /// Who created the key.
    #[serde(alias = "CreatedBy", alias = "createdBy", default, deserialize_with = "or_default")]
    pub created_by: String,
    /// When the key was created, as the API writes it.
    #[serde(alias = "Created", default, deserialize_with = "or_default")]
    pub created: String,
    /// What the key may be used for.
    #[serde(alias = "Scopes", default, deserialize_with = "or_default")]
    pub scopes: Vec<String>,
    /// Whether the key has been revoked. [`TokenApi::list_keys`] returns only keys that have not.
    #[serde(
        alias = "Revoked",
        alias = "isRevoked",
        alias = "IsRevoked",
        default,
        deserialize_with = "or_default"
    )]
    pub revoked: bool,
}

/// Reads a value that may be null.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl TokenApi {
    /// Creates a handle for the Token API that makes its calls through this client. Its middleware
    /// needs the target [`Target::edge_admin`](crate::Target::edge_admin) and the credentials of an
    /// Edge administration client.
    #[must_use]
    pub fn new(client: ClientWithMiddleware) -> Self {
        Self { client, url: append_path(parse_url(EDGE), ["api", "apikey", "v1"]) }
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

    /// Creates a key for the Delivery API. **The key is valid until it is revoked**, and it is
    /// returned only once. Store it, and [revoke](Self::revoke_key) it when it is no longer
    /// needed. Revoking takes the hash that only [`list_keys`](Self::list_keys) returns.
    ///
    /// A program that only reads the Delivery API does not need a key of its own. It can obtain its
    /// environment's key with [`EdgeKeySource`](super::EdgeKeySource).
    ///
    /// # Errors
    ///
    /// The middleware's error if there is no token. [`Refused`](ErrorKind::Refused) if the client
    /// is of another kind. [`Malformed`](ErrorKind::Malformed) if the response is not a key.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after the request was sent, a key may have been created without
    /// being returned. Look for its label with [`list_keys`](Self::list_keys).
    pub async fn create_key(&self, label: impl AsRef<str>) -> Result<SecretString> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct NewKey<'a> {
            created_by: &'a str,
            label: &'a str,
            scopes: [&'a str; 2],
        }
        let created_by = env!("CARGO_PKG_NAME");
        let new = NewKey { created_by, label: label.as_ref(), scopes: SCOPES };
        let response = self.call(Method::POST, &[], &[], Some(&new)).await?;
        let host = self.url.host_str().unwrap_or_default();
        let text = response.text().await.map_err(|error| interrupted(host, error))?;
        let key = Zeroizing::new(text);
        // Plain text, in quotation marks or not.
        let key = key.trim().trim_matches('"');
        Token::api_key(API_KEY, key)?;
        Ok(key.into())
    }

    /// Lists the keys whose label contains `label`, or all keys, from all pages. Revoked keys are
    /// left out.
    ///
    /// To find the key that you created, compare the whole label, and make labels unique. A label
    /// alone does not say whose key it is.
    ///
    /// # Errors
    ///
    /// As [`create_key`](Self::create_key). [`Malformed`](ErrorKind::Malformed) if there are more
    /// than 10,000 keys.
    ///
    /// # Cancel safety
    ///
    /// This call changes nothing, so the future can be dropped at any time.
    pub async fn list_keys(&self, label: Option<&str>) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for number in 1..=MAX_PAGES {
            let number = number.to_string();
            let mut query =
                vec![("filterRevoked", "true"), ("pagesize", PAGE_SIZE), ("pagenumber", &*number)];
            query.extend(label.map(|label| ("label", label)));
            let response = self.call(Method::GET, &[], &query, None::<&()>).await?;
            let page: Page = parse_json(response).await?;
            let is_last = !page.has_next || page.keys.is_empty();
            keys.extend(page.keys);
            if is_last {
                return Ok(keys);
            }
        }
        Err(Error::new(
            ErrorKind::Malformed,
            "the Token API lists more than 10,000 keys; filter them by label",
        ))
    }

    /// Returns the description of a key.
    ///
    /// # Errors
    ///
    /// As [`create_key`](Self::create_key). [`Config`](ErrorKind::Config) if there is no key with
    /// this hash.
    ///
    /// # Cancel safety
    ///
    /// This call changes nothing, so the future can be dropped at any time.
    pub async fn get_key(&self, hash: &str) -> Result<KeyInfo> {
        let path = [check_segment("hash", hash)?];
        parse_json(self.call(Method::GET, &path, &[], None::<&()>).await?).await
    }

    /// Changes a key's label.
    ///
    /// # Errors
    ///
    /// As [`get_key`](Self::get_key).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after the request was sent, the label may or may not have changed.
    /// Repeat the call.
    pub async fn rename_key(&self, hash: &str, label: &str) -> Result<()> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct NewName<'a> {
            new_name: &'a str,
        }
        let path = ["renamebyhash", check_segment("hash", hash)?];
        self.change(&path, Some(&NewName { new_name: label })).await
    }

    /// Revokes a key permanently.
    ///
    /// # Errors
    ///
    /// As [`get_key`](Self::get_key).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after the request was sent, the key may or may not have been
    /// revoked. Repeat the call.
    pub async fn revoke_key(&self, hash: &str) -> Result<()> {
        let path = ["revokebyhash", check_segment("hash", hash)?];
        self.change(&path, None::<&()>).await
    }

    /// Changes a key. The API returns nothing, or whether it has changed the key.
    async fn change(&self, path: &[&str], body: Option<&impl Serialize>) -> Result<()> {
        let response = self.call(Method::PUT, path, &[], body).await?;
        let host = self.url.host_str().unwrap_or_default();
        let text = response.bytes().await.map_err(|error| interrupted(host, error))?;
        if text.trim_ascii() == b"false" {
            let message = format!("{host} has not changed the key; check its hash");
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(())
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<Response> {
        let mut url = append_path(self.url.clone(), path.iter().copied());
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            let body =
                serde_json::to_vec(body).map_err(|error| Error::new(ErrorKind::Config, error))?;
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        send(request, ClientKind::EdgeAdministration).await
    }
}

impl fmt::Debug for TokenApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenApi").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}
