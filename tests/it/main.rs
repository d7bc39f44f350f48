//! One binary for all integration tests: behaviour through the public API.
//!
//! Tests of the cache run on paused time with a scripted source and without sockets. Tests with
//! sockets run in real time. No test mixes the two.

mod support;

mod cache;
mod docs;
mod middleware;
mod secrets;
mod sitecore;
mod store;
mod telemetry;
mod token_client;
