//! Fetches access tokens from Sitecore Cloud's issuer with the OAuth2 client credentials grant: one
//! `POST`, one typed response.
//!
//! This is the raw token client. It does not cache, retry or track expiry. A program that calls
//! APIs should use the crate `sitecore-auth`, which builds all of that on top of this one.
//!
//! With `ClientCredentials::from_env()` and `Endpoint::from_env()` it requests a token from
//! Sitecore Cloud. This example uses the sandbox of the crate `sitecore-sandbox` instead:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_sandbox::Sandbox;
//! use sitecore_token::{ClientCredentials, Endpoint, ErrorKind, TokenClient};
//!
//! let sandbox = Sandbox::start().await?;
//! let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
//! let client = |secret: &str| {
//!     let credentials = ClientCredentials::new(sandbox.environment().id(), secret);
//!     TokenClient::builder(credentials).endpoint(endpoint.clone()).build()
//! };
//!
//! let response = client(sandbox.environment().secret())?.fetch().await?;
//! println!("lifetime {:?}, scopes {:?}", response.expires_in(), response.scopes().collect::<Vec<_>>());
//!
//! let error = client("a wrong secret")?.fetch().await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Refused);
//! println!("{error}; worth a retry: {}", error.is_transient());
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! - `rustls` (default): TLS with rustls.
//! - `rustls-no-provider`: TLS with rustls, without a cryptography provider. The program must
//!   install one before it builds a client; otherwise building panics.
//! - `native-tls`: TLS with the platform's library.

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

mod builder;
mod claims;
mod client;
mod credentials;
#[cfg(doctest)]
mod doctests;
mod endpoint;
mod env;
mod error;
mod file;
#[cfg(fuzzing)]
pub mod fuzzing;
mod json;
mod quota;
mod redact;
mod response;
mod settings;
mod sitecore_cli;
mod text;
mod transport;

pub use builder::TokenClientBuilder;
pub use claims::{Claims, ClientKind};
pub use client::TokenClient;
pub use credentials::ClientCredentials;
pub use endpoint::Endpoint;
#[doc(hidden)]
pub use endpoint::is_loopback;
#[doc(hidden)]
pub use env::secret_from_env;
pub use error::{Error, ErrorKind, Refusal, Result};
#[doc(hidden)]
pub use file::{distrust, read_credential};
#[doc(hidden)]
pub use json::{MAX_LIFETIME, check_bearer};
#[doc(hidden)]
pub use quota::retry_after_from_now;
pub use quota::{Quota, QuotaBucket};
pub use response::TokenResponse;
pub use settings::{ClientAuth, Encoding};
#[doc(hidden)]
pub use sitecore_cli::access_token_from_sitecore_cli;
#[doc(hidden)]
pub use text::check as check_credential;
