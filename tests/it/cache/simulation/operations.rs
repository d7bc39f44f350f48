//! The operations of a case, and how they are drawn.

use std::time::Duration;

use proptest::prelude::*;
use sitecore_auth::ErrorKind;

use crate::support::HOUR;

#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// Time passes in small steps.
    Advance(Duration),
    /// Time passes at once.
    Jump(Duration),
    Suspend(Duration),
    WallBack(Duration),
    /// A caller on the current runtime calls `current`.
    Current,
    /// A caller on the current runtime calls `token`.
    Token,
    /// An API rejects a recent token. 0 is the newest.
    Replace(usize),
    DropCaller(usize),
    /// The issuer behaves like this from now on.
    Issuer(Issuer),
    /// The current runtime is dropped with all its tasks and callers.
    LoseRuntime,
    /// The current runtime is no longer driven, and a new one takes its place.
    ParkRuntime,
    /// The runtime that was parked last is driven again.
    UnparkRuntime,
}

/// How the issuer responds to a token request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Issuer {
    /// A new token with this lifetime.
    Grant(Duration),
    /// A token with this lifetime and age, as from a shared store.
    Adopted(Duration, Duration),
    /// A new token after a delay. The second duration is its lifetime.
    SlowGrant(Duration, Duration),
    /// The last token again, with this lifetime.
    SameAgain(Duration),
    Fail(ErrorKind),
    SlowFail(Duration, ErrorKind),
    /// A rate limit that specifies when to retry.
    FailFor(Duration),
    Hang,
    Panic,
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    let short = (1_u64..5_000).prop_map(Duration::from_millis);
    let long = (1_u64..100_000).prop_map(Duration::from_secs);
    prop_oneof![
        6 => short.prop_map(Operation::Advance),
        2 => (5_u64..60).prop_map(|seconds| Operation::Advance(Duration::from_secs(seconds))),
        3 => long.clone().prop_map(Operation::Jump),
        1 => long.clone().prop_map(Operation::Suspend),
        1 => long.prop_map(Operation::WallBack),
        4 => Just(Operation::Current),
        6 => Just(Operation::Token),
        3 => (0_usize..3).prop_map(Operation::Replace),
        2 => any::<usize>().prop_map(Operation::DropCaller),
        5 => issuer().prop_map(Operation::Issuer),
        1 => Just(Operation::LoseRuntime),
        1 => Just(Operation::ParkRuntime),
        1 => Just(Operation::UnparkRuntime),
    ]
}

fn issuer() -> impl Strategy<Value = Issuer> {
    let kind = prop_oneof![
        Just(ErrorKind::Unavailable),
        Just(ErrorKind::Malformed),
        Just(ErrorKind::Refused)
    ];
    let delay = (1_u64..40_000).prop_map(Duration::from_millis);
    prop_oneof![
        4 => lifetime().prop_map(Issuer::Grant),
        1 => (lifetime(), 1_u64..50_000)
            .prop_map(|(lifetime, age)| Issuer::Adopted(lifetime, Duration::from_secs(age))),
        2 => (delay.clone(), lifetime())
            .prop_map(|(delay, lifetime)| Issuer::SlowGrant(delay, lifetime)),
        1 => lifetime().prop_map(Issuer::SameAgain),
        2 => kind.clone().prop_map(Issuer::Fail),
        1 => (delay, kind).prop_map(|(delay, kind)| Issuer::SlowFail(delay, kind)),
        1 => (40_u64..100_000).prop_map(|wait| Issuer::FailFor(Duration::from_secs(wait))),
        1 => Just(Issuer::Hang),
        1 => Just(Issuer::Panic),
    ]
}

fn lifetime() -> impl Strategy<Value = Duration> {
    prop_oneof![
        2 => (1_u64..30).prop_map(Duration::from_secs),
        3 => (30_u64..2_000).prop_map(Duration::from_secs),
        3 => Just(24 * HOUR),
        1 => (0_u64..=1_000_000_000_000_000_000).prop_map(Duration::from_secs),
    ]
}
