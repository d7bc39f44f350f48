//! A caching token-refresh layer for `reqwest`: calls to Sitecore Cloud carry a valid token, and you never
//! see it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_auth::{AuthMiddleware, ClientCredentials, Target, redirect_policy};
//!
//! let targets = [Target::authoring("xmc-acme-site-prod.sitecorecloud.io")?, Target::deploy()];
//! let auth = AuthMiddleware::new(ClientCredentials::from_env()?, targets)?;
//! let http = reqwest::Client::builder().redirect(redirect_policy()).build()?;
//! let client = reqwest_middleware::ClientBuilder::new(http).with(auth).build();
//!
//! let projects = "https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1";
//! println!("{}", client.get(projects).send().await?.status());
//! # Ok(())
//! # }
//! ```
//!
//! Without a tenant, on the Sitecore Cloud in a process that the crate `sitecore-sandbox` is:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_auth::{
//!     AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient, redirect_policy,
//! };
//! use sitecore_sandbox::{Api, Sandbox};
//!
//! let sandbox = Sandbox::start().await?;
//! let (id, secret) = (sandbox.organization().id(), sandbox.organization().secret());
//! let tokens = TokenClient::builder(ClientCredentials::new(id, secret))
//!     .endpoint(Endpoint::new(sandbox.token_url(), sandbox.audience())?)
//!     .build()?;
//! let auth = AuthMiddleware::builder(TokenCache::new(tokens))
//!     .target(Target::deploy().at(sandbox.origin(Api::Deploy).clone())?)
//!     .build()?;
//! let http = reqwest::Client::builder().redirect(redirect_policy()).no_proxy().build()?;
//! let client = reqwest_middleware::ClientBuilder::new(http).with(auth).build();
//!
//! let projects = sandbox.url(Api::Deploy, "/api/projects/v1");
//! assert!(client.get(projects.clone()).send().await?.status().is_success());
//! // Somebody revokes the token: the layer replaces it, and sends the request once more.
//! sandbox.revoke_tokens();
//! assert!(client.get(projects).send().await?.status().is_success());
//! assert_eq!((sandbox.grants(), sandbox.refusals(Api::Deploy)), (2, 1));
//! # Ok(())
//! # }
//! ```
//!
//! The way of a request: [`AuthMiddleware`] finds out whether the request is for one of its [`Target`]s,
//! asks its [`TokenCache`] for a [`Token`], and puts the token's header on the request. The cache gets
//! tokens from a [`TokenSource`], as a rule a [`TokenClient`], and renews them by a [`RefreshPolicy`].
//!
//! # Features
//!
//! - `rustls` (default): TLS by rustls.
//! - `native-tls`: TLS by the platform's library.
//! - `metrics`: counts, by the `metrics` facade: see `docs/operations.md`.
//! - `test-util`: a clock for your tests that moves when it is told to, `ManualClock`.

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

mod cache;
mod clock;
pub mod edge;
mod error;
mod middleware;
mod policy;
mod provider;
mod source;
mod stamp;
mod telemetry;
mod token;

pub use cache::{CacheStatus, TokenCache, TokenCacheBuilder};
#[cfg(feature = "test-util")]
pub use clock::ManualClock;
pub use clock::{Clock, Now, SystemClock};
pub use error::{Error, ErrorKind, Result};
pub use middleware::{
    AuthMiddleware, AuthMiddlewareBuilder, NoAuth, Rejections, Replay, Target, redirect_policy,
};
pub use policy::{Backoff, RefreshPolicy};
pub use provider::{
    CredentialsProvider, EnvironmentCredentials, FileCredentials, ProviderSource,
    SitecoreCliCredentials,
};
#[doc(no_inline)]
pub use sitecore_token::{
    Claims, ClientCredentials, ClientKind, Encoding, Endpoint, Quota, TokenClient,
    TokenClientBuilder,
};
pub use source::{Identity, TokenSource, source_fn};
pub use stamp::Freshness;
pub use token::{Fingerprint, Token};

/// What the fuzz targets call: the readers behind the layer, without a network.
#[cfg(fuzzing)]
pub mod fuzzing {
    use crate::middleware::{
        challenge,
        graphql::{self, Verdict},
    };

    /// Tells whether an answer 401 with these headers refuses the token.
    pub fn refuses_token(headers: &http::HeaderMap) -> bool {
        challenge::refuses_token(headers)
    }

    /// Reads the start of a GraphQL answer: `None` if it does not decide; else whether it is a refusal, and
    /// whether of all.
    pub fn graphql(start: &[u8]) -> Option<(bool, bool)> {
        match graphql::read(start) {
            Verdict::Open => None,
            Verdict::Accepted => Some((false, false)),
            Verdict::Refused => Some((true, true)),
            Verdict::RefusedInPart => Some((true, false)),
        }
    }

    /// Tells for each byte whether it makes sense to read the answer again after it.
    pub fn watch(answer: &[u8]) -> Vec<bool> {
        let mut watch = graphql::Watch::default();
        let ends = 1..=answer.len();
        ends.map(|end| watch.is_decisive(&answer[..end])).collect()
    }

    /// Tells whether its first member is, or can still become, `errors`.
    pub fn may_begin_with_errors(start: &[u8]) -> bool {
        graphql::may_begin_with_errors(start)
    }
}

/// Makes the prose's code compile.
#[cfg(doctest)]
mod prose {
    #[doc = include_str!("../README.md")]
    struct CrateReadme;
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/apis.md")]
    struct Apis;
    #[doc = include_str!("../../../docs/architecture.md")]
    struct Architecture;
    #[doc = include_str!("../../../docs/design.md")]
    struct Design;
    #[doc = include_str!("../../../docs/failure-modes.md")]
    struct FailureModes;
    #[doc = include_str!("../../../docs/migrating.md")]
    struct Migrating;
    #[doc = include_str!("../../../docs/operations.md")]
    struct Operations;
    #[doc = include_str!("../../../docs/threat-model.md")]
    struct ThreatModel;
}
