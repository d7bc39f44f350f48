//! A fake Sitecore Cloud in your process: the token issuer and the APIs, on loopback ports.
//!
//! Tokens are real JWTs, signed with RS256 by a key generated at start, and they expire. The APIs
//! check signature, issuer, audience and expiry, and reject tokens in the ways that are documented
//! or reported for the real APIs. Faults are scripted per API. Item templates and versions,
//! permissions other than scopes, and persistence are not implemented.
//!
//! `cargo run -p sitecore-sandbox` runs it as a program, for clients in any language.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! use std::time::Duration;
//! use sitecore_sandbox::{Api, Fault, Sandbox};
//!
//! let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(3)).start().await?;
//! println!("tokens: {}, GraphQL: {}", sandbox.token_url(), sandbox.authoring_url());
//! println!("client id: {}", sandbox.organization().id());
//!
//! // The next two token requests fail; later ones succeed.
//! sandbox.script(Api::Token, [Fault::status(503), Fault::status(429).header("retry-after", "1")]);
//!
//! // … run the program under test …
//!
//! assert_eq!(sandbox.tokens_granted(), 0);
//! assert_eq!(sandbox.rejections(Api::Authoring), 0);
//! # Ok(())
//! # }
//! ```

#![warn(
    missing_docs,
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::missing_errors_doc,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod api;
mod cloud;
#[cfg(doctest)]
mod doctests;
mod sandbox;

#[doc(hidden)]
pub use cloud::parse_duration;
pub use cloud::{Api, Client, ClientKind, Fault, ParseFaultError};
pub use sandbox::{Sandbox, SandboxBuilder};
