//! Sitecore's APIs, as the sandbox provides them.

mod apis;
mod authoring;
mod documented;
mod edge;
mod media;
mod sandbox;
