//! What is counted for others, by the `metrics` facade; nothing without the feature of that name. Names and labels are
//! described in `docs/operations.md`.
//!
//! Nothing here is on the way of a request that finds a fresh token, and no label is a secret.

#![cfg_attr(
    not(feature = "metrics"),
    expect(unused_variables, reason = "without the feature nothing is counted")
)]

use std::time::Duration;

use crate::{Error, ErrorKind, Result, clock::Now};

/// Counts a call of the source.
pub(crate) fn granted(cache: &str, reason: &'static str, outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "sitecore_auth_grants_total",
        "cache" => cache.to_owned(), "reason" => reason, "outcome" => outcome
    )
    .increment(1);
}

/// Counts a refresh, and how long it took.
pub(crate) fn refreshed(cache: &str, reason: &'static str, outcome: &'static str, took: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(
        "sitecore_auth_refresh_seconds",
        "cache" => cache.to_owned(), "reason" => reason, "outcome" => outcome
    )
    .record(took);
}

/// Tells until when the token held can be used, by the wall clock; nothing for a key without expiry.
pub(crate) fn usable_until(cache: &str, end: Now) {
    #[cfg(feature = "metrics")]
    if end != Now::NEVER {
        metrics::gauge!("sitecore_auth_usable_until_timestamp_seconds", "cache" => cache.to_owned())
            .set(end.wall().as_secs_f64());
    }
}

/// Tells until when nobody asks again, by the wall clock: until now, where the gate is open.
pub(crate) fn gate_closed(cache: &str, until: Now) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("sitecore_auth_gate_closed_until_timestamp_seconds", "cache" => cache.to_owned())
        .set(until.wall().as_secs_f64());
}

/// Counts a caller that waited for a refresh, and how long it did.
pub(crate) fn waited(cache: &str, outcome: &'static str, time: Duration) {
    #[cfg(feature = "metrics")]
    metrics::histogram!(
        "sitecore_auth_wait_seconds",
        "cache" => cache.to_owned(), "outcome" => outcome
    )
    .record(time);
}

/// Counts an answer that refused a token, and what was done about it.
pub(crate) fn refused(cache: &str, then: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "sitecore_auth_refused_answers_total",
        "cache" => cache.to_owned(), "then" => then
    )
    .increment(1);
}

/// Names what came of something, for a label or a field.
pub(crate) fn outcome<T>(result: &Result<T>, well: &'static str) -> &'static str {
    result.as_ref().map_or_else(kind, |_| well)
}

/// Names the kind of an error, for a label or a field.
pub(crate) fn kind(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Config => "config",
        ErrorKind::Refused => "refused",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Malformed => "malformed",
        ErrorKind::Timeout => "timeout",
    }
}
