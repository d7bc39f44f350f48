//! Caching token-refresh middleware for `reqwest`: your calls to Sitecore Cloud carry a valid
//! token, and you never handle one.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_auth::{AuthMiddleware, Target, reqwest};
//!
//! let targets = [Target::authoring("xmc-acme-site-prod.sitecorecloud.io")?, Target::deploy()];
//! let client = AuthMiddleware::from_env(targets)?.into_client(reqwest::Client::builder())?;
//!
//! let projects = "https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1";
//! println!("{}", client.get(projects).send().await?.status());
//! # Ok(())
//! # }
//! ```
//!
//! The same without a tenant, with the crate `sitecore-sandbox`:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use sitecore_auth::{
//!     AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient, reqwest,
//! };
//! use sitecore_sandbox::{Api, Sandbox};
//!
//! let sandbox = Sandbox::start().await?;
//! let (id, secret) = (sandbox.organization().id(), sandbox.organization().secret());
//! let tokens = TokenClient::builder(ClientCredentials::new(id, secret))
//!     .endpoint(Endpoint::new(sandbox.token_url(), sandbox.audience())?)
//!     .build()?;
//! let client = AuthMiddleware::builder(TokenCache::new(tokens))
//!     .target(Target::deploy().with_origin(sandbox.origin(Api::Deploy).clone())?)
//!     .build()?
//!     .into_client(reqwest::Client::builder())?;
//!
//! let projects = sandbox.url(Api::Deploy, "/api/projects/v1");
//! assert!(client.get(projects.clone()).send().await?.status().is_success());
//! // The API rejects the revoked token. The middleware replaces it and replays the request.
//! sandbox.revoke_tokens();
//! assert!(client.get(projects).send().await?.status().is_success());
//! assert_eq!((sandbox.tokens_granted(), sandbox.rejections(Api::Deploy)), (2, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! [`AuthMiddleware`] checks whether a request matches one of its [`Target`]s. If so, it takes a
//! [`Token`] from its [`TokenCache`] and adds the token's header. The cache fetches tokens from a
//! [`TokenSource`], usually a [`TokenClient`], and refreshes them according to a [`RefreshPolicy`].
//!
//! # The basics
//!
//! [`AuthMiddleware`] and [`ClientCredentials`] are all that most programs need, with a [`Target`]
//! for each API. Per request, [`NoAuth`] and [`Replay`] make exceptions. An [`Error`] has an
//! [`ErrorKind`] that says what to do. [`Rejections`] defines which responses reject a token. A
//! [`WrongClient`] in a response explains a 403.
//!
//! # Caching
//!
//! [`TokenCache`] holds one token, and [`CacheStatus`] reports on it for health checks.
//! [`RefreshPolicy`] and [`Backoff`] contain the timing settings. [`Freshness`] and [`Fingerprint`]
//! describe a [`Token`] in logs.
//!
//! # Credentials and sources
//!
//! [`TokenClient`] sends token requests to an [`Endpoint`]. For credentials that change while the
//! program runs, use a [`ProviderSource`] with a [`CredentialsProvider`]: [`FileCredentials`],
//! [`EnvironmentCredentials`] or [`SitecoreCliCredentials`]. [`SitecoreCliLogin`] uses a person's
//! login. For tokens from elsewhere, use
//! [`source_fn`] or implement [`TokenSource`], with [`FetchContext`] and [`SharingKey`]. Keys for
//! Experience Edge's Delivery API come from [`edge`]. [`Claims`] and [`ClientKind`] describe the
//! client that a token was granted to.
//!
//! # Tests
//!
//! [`Clock`] is the source of time and returns a [`Moment`]. The default is [`SystemClock`]. With
//! the feature `test-util` there is a `ManualClock`.
//!
//! # Features
//!
//! - `rustls` (default): TLS with rustls.
//! - `rustls-no-provider`: TLS with rustls, without a cryptography provider. The program must
//!   install one before it builds a client; otherwise building panics.
//! - `native-tls`: TLS with the platform's library.
//! - `retry`: `HonourRetryAfter`, a strategy and policy for reqwest-retry.
//! - `serde`: [`CacheStatus`] can be serialized.
//! - `metrics`: metrics for the `metrics` facade. The repository's `docs/operations.md` describes
//!   them.
//! - `test-util`: `ManualClock` and a policy without jitter, for your tests.

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

mod cache;
mod clock;
mod contain;
mod credentials;
#[cfg(doctest)]
mod doctests;
pub mod edge;
mod error;
mod freshness;
#[cfg(fuzzing)]
pub mod fuzzing;
mod metrics;
mod middleware;
mod policy;
#[cfg(feature = "retry")]
mod retry;
mod source;
mod target;
mod token;

pub use cache::{CacheStatus, TokenCache, TokenCacheBuilder};
#[cfg(feature = "test-util")]
pub use clock::ManualClock;
pub use clock::{Clock, Moment, SystemClock};
pub use credentials::{
    CredentialsProvider, EnvironmentCredentials, FileCredentials, ProviderSource,
    SitecoreCliCredentials, SitecoreCliLogin,
};
pub use error::{Error, ErrorKind, Result};
pub use freshness::Freshness;
pub use middleware::{
    AuthMiddleware, AuthMiddlewareBuilder, NoAuth, Rejections, Replay, WrongClient,
};
#[doc(hidden)]
pub use middleware::{CREDENTIAL_HEADERS, CREDENTIAL_PARAMETERS, may_name_document};
pub use policy::{Backoff, RefreshPolicy};
#[cfg(feature = "retry")]
#[cfg_attr(docsrs, doc(cfg(feature = "retry")))]
pub use retry::HonourRetryAfter;
#[doc(inline)]
pub use sitecore_token::{
    Claims, ClientAuth, ClientCredentials, ClientKind, Encoding, Endpoint, Quota, QuotaBucket,
    Refusal, TokenClient, TokenClientBuilder,
};
pub use source::{FetchContext, SharingKey, TokenSource, source_fn};
pub use target::Target;
pub use token::{Fingerprint, Token};
#[doc(no_inline)]
pub use {reqwest, reqwest_middleware};
