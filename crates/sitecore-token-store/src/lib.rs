//! One token for many processes: [`SharedSource`] wraps the source of a cache, and keeps its token
//! sealed in a [`TokenStore`].
//!
//! Issuers can limit token requests, and may charge for them. With a store, fifty daily runs of a
//! job, or a hundred workers that start together, share each token. Together they need one or two
//! token requests a day.
//!
//! In this example, three caches stand in for three processes, and the crate `sitecore-sandbox`
//! stands in for Sitecore Cloud:
//!
//! ```
//! # #[cfg(feature = "file")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_auth::{ClientCredentials, Endpoint, TokenCache, TokenClient};
//! use sitecore_sandbox::Sandbox;
//! use sitecore_token_store::{FileStore, SharedSource};
//!
//! let sandbox = Sandbox::start().await?;
//! let (id, secret) = (sandbox.organization().id(), sandbox.organization().secret());
//! let folder = tempfile::tempdir()?;
//! for _process in 0..3 {
//!     let tokens = TokenClient::builder(ClientCredentials::new(id, secret))
//!         .endpoint(Endpoint::new(sandbox.token_url(), sandbox.audience())?)
//!         .build()?;
//!     // `FileStore::new` uses the platform's cache folder instead.
//!     let store = FileStore::in_dir(folder.path().join("tokens"))?;
//!     let cache = TokenCache::new(SharedSource::new(tokens, store)?);
//!     cache.token().await?;
//! }
//! assert_eq!(sandbox.tokens_granted(), 1);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "file"))]
//! # fn main() {}
//! ```
//!
//! A store only saves token requests. If it is down, slow or full, each process makes its own. An
//! entry that cannot be decrypted is treated as missing.
//!
//! # Features
//!
//! - `file`: `FileStore`, for the processes of one machine.
//! - `redis`: `RedisStore`, for many machines, in Redis or Valkey.
//! - `redis-cluster`: `RedisStore::cluster`, for Redis Cluster.
//! - `metrics`: metrics for the `metrics` facade, described in `docs/operations.md`.

// Shows in the published documentation which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(
    missing_docs,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::missing_errors_doc,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod call;
mod decision;
#[cfg(doctest)]
mod doctests;
mod entry;
#[cfg(feature = "file")]
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod limit;
mod memory;
mod parts;
#[cfg(feature = "redis")]
mod redis_store;
mod seal;
mod shared;
mod store;

#[cfg(feature = "file")]
pub use file::FileStore;
pub use memory::MemoryStore;
#[cfg(feature = "redis")]
pub use redis;
#[cfg(feature = "redis")]
pub use redis_store::{RedisStore, RedisStoreBuilder};
pub use shared::SharedSource;
pub use store::{Lease, Stored, TokenStore};
