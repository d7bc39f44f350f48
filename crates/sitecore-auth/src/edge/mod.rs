//! Keys for the Delivery API of Experience Edge, which does not accept a JWT: a fixed key, a source
//! that obtains one, and the API that manages them.
//!
//! ```no_run
//! # async fn example(deploy: reqwest_middleware::ClientWithMiddleware) -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_auth::{AuthMiddleware, Target, TokenCache, edge::EdgeKeySource, reqwest};
//!
//! // `deploy` is a client that authenticates as an organization automation client.
//! let keys = EdgeKeySource::deploy_api(deploy, "2zYj6uPbNq0sWq0Nc9rU1d");
//! let auth = AuthMiddleware::builder(TokenCache::new(keys)).target(Target::edge_delivery()).build()?;
//! let delivery = auth.into_client(reqwest::Client::builder())?;
//! # Ok(())
//! # }
//! ```

mod call;
mod key;
mod key_source;
mod token_api;

pub use self::{
    key::EdgeKey,
    key_source::EdgeKeySource,
    token_api::{KeyInfo, TokenApi},
};
