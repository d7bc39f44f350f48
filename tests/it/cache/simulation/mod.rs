//! A simulation with random lifetimes, issuer faults, clock jumps, suspends, freezes, dropped
//! callers, lost and parked runtimes, checks for new credentials, and APIs that reject tokens. The
//! cache's contract must hold after every operation.
//!
//! `SIMULATION_CASES` sets the number of cases. A failing case is saved in
//! `tests/it/cache/simulation.regressions`, and later runs start with it.

mod apis;
mod checks;
mod contract;
mod model;
mod operations;
mod source;
