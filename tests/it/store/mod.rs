//! One token for many processes.

mod failures;
#[cfg(unix)]
mod file;
mod fleet;
#[cfg(unix)]
mod processes;
#[cfg(unix)]
mod redis;
mod simulation;
