//! The cache, on paused time with scripted sources and without sockets.

mod concurrency;
mod credentials_rotation;
mod keep_fresh;
mod lifecycle;
mod policy;
mod replace;
mod runtimes;
mod simulation;
