//! One token for many processes: [`SharedSource`] stands between a cache and the source that asks the issuer,
//! and keeps the token in a [`TokenStore`], sealed.
//!
//! Issuers count and bill machine-to-machine tokens. A job that starts fifty times a day, or a hundred workers
//! that start at once, then cost one grant for as long as the token lives.
//!
//! ```no_run
//! # #[cfg(feature = "file")]
//! # fn main() -> Result<(), sitecore_auth::Error> {
//! use sitecore_auth::{AuthMiddleware, ClientCredentials, Target, TokenCache, TokenClient};
//! use sitecore_token_store::{FileStore, SharedSource};
//!
//! let tokens = TokenClient::new(ClientCredentials::from_env()?)?;
//! let shared = SharedSource::new(tokens, FileStore::new()?)?;
//! let auth = AuthMiddleware::builder(TokenCache::new(shared)).target(Target::deploy()).build()?;
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

#![warn(
    missing_docs,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod entry;
#[cfg(feature = "file")]
mod file;
mod seal;
mod shared;
mod store;

#[cfg(feature = "file")]
pub use file::FileStore;
pub use shared::SharedSource;
pub use store::{Lease, TokenStore};

/// Makes the prose's code compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
