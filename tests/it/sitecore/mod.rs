//! Sitecore's APIs, on the sandbox.

mod apis;
mod edge;
mod media;
mod sandbox;
