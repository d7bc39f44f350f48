//! Fetches access tokens from Sitecore Cloud's issuer: OAuth2 client credentials, one POST in, one typed
//! answer out.
//!
//! This is the raw fetcher. It keeps nothing, repeats nothing and reads no clock; a program that calls
//! APIs wants the crate `sitecore-auth`, which does all of that on top of this one.
//!
//! With `ClientCredentials::from_env()` and `Endpoint::from_env()` it asks Sitecore Cloud; here, the one in a process
//! that the crate `sitecore-sandbox` is:
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
//! let answer = client(sandbox.environment().secret())?.fetch().await?;
//! println!("granted for {:?}: {:?}", answer.expires_in(), answer.scopes().collect::<Vec<_>>());
//!
//! let error = client("a wrong secret")?.fetch().await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Refused);
//! println!("{error}; worth another try: {}", error.is_transient());
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! - `rustls` (default): TLS by rustls.
//! - `native-tls`: TLS by the platform's library.

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

mod body;
mod builder;
mod claims;
mod client;
mod credentials;
mod endpoint;
mod env;
mod error;
mod quota;
mod response;
mod sitecore_cli;
mod wire;

pub use body::{MAX_LIFETIME, check_bearer};
pub use builder::{Encoding, TokenClientBuilder};
pub use claims::{Claims, ClientKind};
pub use client::TokenClient;
pub use credentials::ClientCredentials;
pub use endpoint::Endpoint;
pub use error::{Error, ErrorKind, Refusal, Result};
pub use quota::{Quota, QuotaBucket};
pub use response::TokenResponse;

/// What the fuzz targets call: the readers behind the public API, without a network.
#[cfg(fuzzing)]
pub mod fuzzing {
    use std::time::Duration;

    use reqwest::{StatusCode, header::HeaderMap};
    use url::Url;

    use crate::{Result, TokenResponse, wire};

    /// Reads an answer to a request whose secret was `secret`.
    pub fn answer(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        secret: &str,
    ) -> Result<TokenResponse> {
        let url = Url::parse("https://issuer.example/oauth/token").expect("a URL");
        let answer = wire::Answer { url: &url, status, headers, body };
        answer.read(&wire::Redactor { secrets: vec![secret] })
    }

    /// Reads how long to wait from an answer's headers.
    pub fn wait(headers: &HeaderMap) -> Option<Duration> {
        crate::quota::limit_wait(headers)
    }
}

/// Makes the prose's code compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
