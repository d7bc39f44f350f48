//! One binary for all integration tests: behaviour through the public API.
//!
//! Tests of the cache run on paused time with a scripted source and no socket; tests of the wire run on
//! real sockets and real time. No test does both.

mod support;

mod apis;
mod cache;
mod company;
mod credentials;
mod deadlines;
mod docs;
mod edge;
#[cfg(unix)]
mod file_store;
mod fleet;
mod fleet_failures;
mod graphql;
mod herd;
mod keep_fresh;
mod layer;
mod media;
mod policy;
#[cfg(unix)]
mod processes;
mod providers;
mod redirects;
#[cfg(unix)]
mod redis;
mod refused;
mod replay;
mod runtimes;
mod sandbox;
mod secrets;
mod simulation;
mod targets;
mod telemetry;
mod token_answer;
mod token_endpoint;
mod transparent;
