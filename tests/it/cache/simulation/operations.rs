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
    /// The process is frozen: both clocks advance, and no task is driven.
    Freeze(Duration),
    WallBack(Duration),
    /// A caller on the current runtime calls `current`.
    Current,
    /// A caller on the current runtime calls `token`.
    Token,
    /// The same, but this much time passes before the runtime is driven.
    LateToken(Duration),
    /// A caller on the current runtime calls `token_valid_for`.
    TokenFor(Duration),
    /// This many requests through the middleware, one after another.
    Requests(Api, usize),
    /// A request to each of twenty APIs that reject every token.
    RequestsToStrictApis,
    /// The current runtime is not driven for this long, during a refresh that then gets a token.
    LateResult(Duration),
    /// A check for new credentials ends like this from now on.
    Credentials(Check),
    /// The program calls `retry_now`.
    RetryNow,
    /// The program calls `replace` with a recent token. 0 is the newest.
    Replace(usize),
    DropCaller(usize),
    /// The issuer behaves like this from now on.
    Issuer(Issuer),
    /// The current runtime is dropped with all its tasks and callers.
    LoseRuntime,
    /// The program makes this many calls, each on a runtime that ends with the call.
    RuntimePerCall(usize),
    /// The current runtime is no longer driven, and a new one takes its place.
    ParkRuntime,
    /// The runtime that was parked last is driven again.
    UnparkRuntime,
}

/// What an API accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    /// Every token.
    Tolerant,
    /// A token that is as old as its settling time, because it learns the signing keys late.
    Late,
    /// No token. There are several such APIs.
    Strict(u8),
}

/// How a check for new credentials ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    Unchanged,
    Changed,
    /// After a delay. `true` if they have changed.
    Slow(Duration, bool),
    Hang,
    Panic,
}

/// How the issuer responds to a token request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Issuer {
    /// A new token with this lifetime.
    Grant(Duration),
    /// A token with this lifetime and age.
    Aged(Duration, Duration),
    /// A new token after a delay. The second duration is its lifetime.
    SlowGrant(Duration, Duration),
    /// The last token again, with this lifetime.
    SameAgain(Duration),
    /// Always the same token, without a lifetime of its own.
    Static,
    /// A token of this lifetime from a gateway that caches it until it expires.
    Gateway(Duration),
    /// A token that is identical to any other granted within the same second.
    OncePerSecond(Duration),
    Fail(ErrorKind),
    SlowFail(Duration, ErrorKind),
    /// A rate limit that specifies when to retry.
    FailFor(Duration),
    Hang,
    Panic,
}

impl Api {
    /// The APIs that reject every token.
    pub(super) fn strict() -> impl Iterator<Item = Self> {
        (0..20).map(Self::Strict)
    }
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    let short = (1_u64..5_000).prop_map(Duration::from_millis);
    let long = (1_u64..100_000).prop_map(Duration::from_secs);
    prop_oneof![
        6 => short.clone().prop_map(Operation::Advance),
        2 => (5_u64..60).prop_map(|seconds| Operation::Advance(Duration::from_secs(seconds))),
        3 => long.clone().prop_map(Operation::Jump),
        1 => long.clone().prop_map(Operation::Suspend),
        1 => long.clone().prop_map(Operation::WallBack),
        1 => long.clone().prop_map(Operation::Freeze),
        4 => Just(Operation::Current),
        6 => Just(Operation::Token),
        1 => short.prop_map(Operation::LateToken),
        1 => long.prop_map(Operation::TokenFor),
        4 => (api(), 1_usize..5).prop_map(|(api, count)| Operation::Requests(api, count)),
        1 => Just(Operation::RequestsToStrictApis),
        1 => (31_u64..100).prop_map(|seconds| Operation::LateResult(Duration::from_secs(seconds))),
        2 => check().prop_map(Operation::Credentials),
        1 => Just(Operation::RetryNow),
        3 => (0_usize..3).prop_map(Operation::Replace),
        2 => any::<usize>().prop_map(Operation::DropCaller),
        5 => issuer().prop_map(Operation::Issuer),
        1 => Just(Operation::LoseRuntime),
        1 => (1_usize..10).prop_map(Operation::RuntimePerCall),
        1 => Just(Operation::ParkRuntime),
        1 => Just(Operation::UnparkRuntime),
    ]
}

fn api() -> impl Strategy<Value = Api> {
    prop_oneof![Just(Api::Tolerant), Just(Api::Late), Just(Api::Strict(0))]
}

fn check() -> impl Strategy<Value = Check> {
    let delay = (1_u64..5_000).prop_map(Duration::from_millis);
    prop_oneof![
        2 => Just(Check::Unchanged),
        2 => Just(Check::Changed),
        2 => (delay, any::<bool>()).prop_map(|(delay, changed)| Check::Slow(delay, changed)),
        1 => Just(Check::Hang),
        1 => Just(Check::Panic),
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
            .prop_map(|(lifetime, age)| Issuer::Aged(lifetime, Duration::from_secs(age))),
        2 => (delay.clone(), lifetime())
            .prop_map(|(delay, lifetime)| Issuer::SlowGrant(delay, lifetime)),
        1 => lifetime().prop_map(Issuer::SameAgain),
        1 => Just(Issuer::Static),
        1 => lifetime().prop_map(Issuer::Gateway),
        1 => lifetime().prop_map(Issuer::OncePerSecond),
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
