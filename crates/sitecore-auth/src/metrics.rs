//! Counters, gauges and histograms for the `metrics` facade. Without the feature of that name,
//! these functions do nothing. `docs/operations.md` describes the names and labels.
//!
//! A request that finds a fresh token calls nothing here, and no label is a secret. A panic in a
//! recorder is contained.

#![cfg_attr(
    not(feature = "metrics"),
    expect(unused_variables, reason = "without the feature nothing is counted")
)]

use std::time::Duration;

use crate::{
    clock::Moment,
    error::{Error, ErrorKind, Result},
    token::Token,
};

/// Describes the metrics to the recorder, which shows the descriptions with the values.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    crate::contain::contain(|| {
        use metrics::{Unit::Seconds, describe_counter, describe_gauge, describe_histogram};
        describe_counter!("sitecore_auth_token_requests_total", "Token requests.");
        describe_histogram!(
            "sitecore_auth_refresh_seconds",
            Seconds,
            "Duration of a refresh, with all its token requests and pauses."
        );
        describe_gauge!(
            "sitecore_auth_usable_until_timestamp_seconds",
            Seconds,
            "When the newest token is no longer used, since the UNIX epoch."
        );
        describe_gauge!(
            "sitecore_auth_cooldown_until_timestamp_seconds",
            Seconds,
            "When the cooldown ends, since the UNIX epoch."
        );
        describe_histogram!(
            "sitecore_auth_wait_seconds",
            Seconds,
            "How long callers waited for a refresh or for a check for new credentials."
        );
        describe_counter!(
            "sitecore_auth_rejected_responses_total",
            "Responses that rejected a token, by what was done about them."
        );
    });
}

/// Counts a token request, successful or not. Does nothing for an adopted token, which was not
/// requested.
pub(crate) fn count_request(cache: &str, reason: &'static str, result: &Result<Token>) {
    #[cfg(feature = "metrics")]
    crate::contain::contain(|| {
        if !result.as_ref().map_or_else(Error::is_adopted, Token::is_adopted) {
            let outcome = result.as_ref().map_or_else(kind_label, |_| "token");
            metrics::counter!(
                "sitecore_auth_token_requests_total",
                "cache" => cache.to_owned(), "reason" => reason, "outcome" => outcome
            )
            .increment(1);
        }
    });
}

/// Records a refresh and its duration.
pub(crate) fn record_refresh(
    cache: &str,
    reason: &'static str,
    outcome: &'static str,
    elapsed: Duration,
) {
    #[cfg(feature = "metrics")]
    crate::contain::contain(|| {
        metrics::histogram!(
            "sitecore_auth_refresh_seconds",
            "cache" => cache.to_owned(), "reason" => reason, "outcome" => outcome
        )
        .record(elapsed);
    });
}

/// Records until when the newest token can be used, by the wall clock. Does nothing for a key
/// without expiry.
pub(crate) fn record_usable_until(cache: &str, end: Moment) {
    #[cfg(feature = "metrics")]
    crate::contain::contain(|| {
        if end != Moment::NEVER {
            metrics::gauge!("sitecore_auth_usable_until_timestamp_seconds", "cache" => cache.to_owned())
            .set(end.wall().as_secs_f64());
        }
    });
}

/// Records when the cooldown ends, by the wall clock. Without a cooldown this is the current time.
pub(crate) fn record_cooldown(cache: &str, end: Moment) {
    #[cfg(feature = "metrics")]
    crate::contain::contain(|| {
        metrics::gauge!("sitecore_auth_cooldown_until_timestamp_seconds", "cache" => cache.to_owned())
        .set(end.wall().as_secs_f64());
    });
}

/// Records how long a caller waited for a refresh or a check.
pub(crate) fn record_wait(cache: &str, outcome: &'static str, elapsed: Duration) {
    #[cfg(feature = "metrics")]
    crate::contain::contain(|| {
        metrics::histogram!(
            "sitecore_auth_wait_seconds",
            "cache" => cache.to_owned(), "outcome" => outcome
        )
        .record(elapsed);
    });
}

/// Counts a response that rejected a token, and what was done about it.
pub(crate) fn count_rejection(cache: &str, action: &'static str) {
    #[cfg(feature = "metrics")]
    crate::contain::contain(|| {
        metrics::counter!(
            "sitecore_auth_rejected_responses_total",
            "cache" => cache.to_owned(), "action" => action
        )
        .increment(1);
    });
}

/// Returns the kind of an error as a label.
pub(crate) fn kind_label(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Config => "config",
        ErrorKind::Refused => "refused",
        ErrorKind::RateLimited => "rate_limited",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Malformed => "malformed",
        ErrorKind::Timeout => "timeout",
    }
}
