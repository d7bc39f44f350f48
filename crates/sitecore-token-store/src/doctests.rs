//! Compiles the code in README and `docs/` as doctests.

#[cfg(feature = "file")]
#[doc = include_str!("../README.md")]
struct CrateReadme;
#[cfg(all(feature = "file", feature = "redis"))]
#[doc = include_str!("../../../docs/fleet.md")]
struct Fleet;
