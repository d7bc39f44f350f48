//! A Sitecore Cloud in your process: an issuer and the APIs behind it, on loopback ports.
//!
//! Tokens are real JWTs, signed with RS256 by a key made at start; they expire, and the APIs check
//! signature, issuer, audience and expiry and refuse as the real ones do. Faults are scripted per API.
//! What the sandbox does not do: permissions below scopes, templates, versions, persistence.
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
//! println!("log in as {}", sandbox.organization().id());
//!
//! // The next two grants fail, then all is well again.
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

mod authoring;
mod client;
mod content;
mod delivery;
mod deploy;
mod edge;
mod edge_keys;
mod fault;
mod issuer;
mod keys;
mod media;
mod problem;
mod publishing;
mod sandbox;
mod shared;

pub use client::{Client, ClientKind};
pub use fault::Fault;
pub use sandbox::{Api, Sandbox, SandboxBuilder};

/// Makes the prose's code compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
