//! Keys for the Delivery API of Experience Edge, which does not accept a JWT: a source that obtains
//! them, and the API that manages them.
//!
//! ```no_run
//! # async fn example(deploy: reqwest_middleware::ClientWithMiddleware) -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_auth::{AuthMiddleware, Target, TokenCache, edge::EdgeKeySource, redirect_policy};
//!
//! // `deploy` is a client that authenticates as an organization automation client.
//! let keys = EdgeKeySource::deploy_api(deploy, "2zYj6uPbNq0sWq0Nc9rU1d");
//! let auth = AuthMiddleware::builder(TokenCache::new(keys)).target(Target::edge_delivery()).build()?;
//! let http = reqwest::Client::builder().redirect(redirect_policy()).build()?;
//! let delivery = reqwest_middleware::ClientBuilder::new(http).with(auth).build();
//! # Ok(())
//! # }
//! ```

mod call;
mod key_source;
mod token_api;

pub use self::{
    key_source::EdgeKeySource,
    token_api::{KeyInfo, TokenApi},
};
