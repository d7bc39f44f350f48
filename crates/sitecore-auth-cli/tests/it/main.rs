//! The program, as scripts and other programs use it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod commands;
#[cfg(unix)]
mod proxy;
#[cfg(unix)]
mod run;
mod support;
#[cfg(unix)]
mod upstream;
