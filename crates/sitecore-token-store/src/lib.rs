//! One token for many processes: [`SharedSource`] stands between a cache and the source that asks the issuer,
//! and keeps the token in a [`TokenStore`], sealed.
//!
//! Issuers count and bill machine-to-machine tokens. A job that starts fifty times a day, or a hundred workers
//! that start at once, then cost one grant for as long as the token lives.
//!
//! Here three caches stand for three processes, and the crate `sitecore-sandbox` for Sitecore Cloud:
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
//!     // `FileStore::new` has a folder of its own, where this platform keeps caches.
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
//! A store saves grants and nothing else. One that is down, slow or full is as if it were not there; what is in
//! it and cannot be opened is as if it were missing.
//!
//! # Features
//!
//! - `file`: `FileStore`, for the processes of one machine.
//! - `redis`: `RedisStore`, for many machines, in Redis or Valkey.
//! - `metrics`: counts, by the `metrics` facade: see `docs/operations.md`.

// Shows, where the documentation is published, which feature an item needs.
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

mod entry;
#[cfg(feature = "file")]
mod file;
#[cfg(feature = "redis")]
mod redis;
mod seal;
mod shared;
mod store;

#[cfg(feature = "file")]
pub use file::FileStore;
#[cfg(feature = "redis")]
pub use redis::RedisStore;
pub use shared::SharedSource;
pub use store::{Lease, Stored, TokenStore};

/// What the fuzz targets call: an entry and its seal, without a store.
#[cfg(fuzzing)]
pub mod fuzzing {
    use std::time::Duration;

    use sitecore_auth::{Result, Token};

    use crate::{entry::Entry, seal::Seal};

    fn seal() -> Seal {
        Seal::derive(&"a-key-of-thirty-two-bytes-and-more".into(), "context")
    }

    /// Seals a text, always with the same key.
    pub fn close(text: &[u8]) -> Vec<u8> {
        seal().close(text)
    }

    /// Opens what was sealed with that key.
    pub fn open(sealed: &[u8]) -> Option<Vec<u8>> {
        seal().open(sealed).map(|text| text.to_vec())
    }

    /// Reads what an entry's text answers somebody who asks at this time.
    pub fn answer(
        text: &[u8],
        now: Duration,
        remaining: Option<Duration>,
    ) -> Option<Result<Token>> {
        Entry::read(text, now, remaining)?.answer(None, now, 1)
    }
}

/// Makes the prose's code compile.
#[cfg(doctest)]
mod prose {
    #[cfg(feature = "file")]
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[cfg(all(feature = "file", feature = "redis"))]
    #[doc = include_str!("../../../docs/fleet.md")]
    struct Fleet;
}
