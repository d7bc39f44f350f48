//! Compiles the code in README and `docs/` as doctests.

#[doc = include_str!("../README.md")]
struct CrateReadme;
#[doc = include_str!("../../../README.md")]
struct Readme;
#[doc = include_str!("../../../docs/apis.md")]
struct Apis;
#[doc = include_str!("../../../docs/architecture.md")]
struct Architecture;
#[doc = include_str!("../../../docs/design.md")]
struct Design;
#[doc = include_str!("../../../docs/failure-modes.md")]
struct FailureModes;
#[doc = include_str!("../../../docs/guide.md")]
struct Guide;
#[doc = include_str!("../../../docs/migrating.md")]
struct Migrating;
#[doc = include_str!("../../../docs/operations.md")]
struct Operations;
#[doc = include_str!("../../../docs/threat-model.md")]
struct ThreatModel;
