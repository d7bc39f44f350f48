//! How long to wait: `Retry-After` and quota headers.

use std::time::Duration;

use chrono::Utc;
use sitecore_token::ErrorKind;
use wiremock::ResponseTemplate;

use super::{error_of, refusal};
use crate::support::{AfterWrite, RawServer, SECOND, client_of};

const DATE: &str = "Sun, 22 Nov 2026 12:00:00 GMT";
const TWO_MINUTES_LATER: &str = "Sun, 22 Nov 2026 12:02:00 GMT";
const TWO_MINUTES_LATER_UNIX: &str = "1795348920";

/// Returns the wait from a 429 response with these headers.
async fn wait_of(headers: &[(&str, &str)]) -> Option<Duration> {
    // A raw server, because other servers add a `Date` header.
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let raw = format!("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n{headers}\r\n");
    let server = RawServer::start(raw, AfterWrite::Close).await;
    let error = client_of(&server.url()).build().unwrap().fetch().await.expect_err("a 429");
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    error.retry_after()
}

#[tokio::test]
async fn retry_after_may_be_seconds_or_a_date() {
    assert_eq!(wait_of(&[("retry-after", "17")]).await, Some(17 * SECOND));
    assert_eq!(
        wait_of(&[("retry-after", TWO_MINUTES_LATER), ("date", DATE)]).await,
        Some(120 * SECOND)
    );
    // Without a `Date` header, the date is compared with the time of receipt.
    let later = Utc::now() + chrono::TimeDelta::seconds(121);
    let later = later.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let wait = wait_of(&[("retry-after", &later)]).await.expect("a wait");
    assert!(wait > 110 * SECOND && wait <= 121 * SECOND, "{wait:?}");
    let error = error_of(ResponseTemplate::new(503).insert_header("retry-after", "5")).await;
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(5 * SECOND)));
    let error = error_of(refusal(403, "access_denied", "").insert_header("retry-after", "5")).await;
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Refused, Some(5 * SECOND)));
}

#[tokio::test]
async fn a_retry_after_of_hours_is_returned_at_once() {
    let started = tokio::time::Instant::now();
    let error =
        error_of(refusal(429, "too_many_requests", "").insert_header("retry-after", "43200")).await;
    assert_eq!(
        (error.kind(), error.retry_after()),
        (ErrorKind::RateLimited, Some(43_200 * SECOND))
    );
    assert!(started.elapsed() < 5 * SECOND);
}

#[tokio::test]
async fn an_invalid_retry_after_is_ignored() {
    for value in ["-5", "abc", "", "0", "0.0", "NaN", "inf", "Sun, 22 Nov 2026 11:00:00 GMT"] {
        assert_eq!(wait_of(&[("retry-after", value), ("date", DATE)]).await, None, "{value}");
    }
    assert_eq!(wait_of(&[("retry-after", "1000000000")]).await, Some(1_000_000_000 * SECOND));
    assert_eq!(wait_of(&[("retry-after", "abc"), ("retry-after", "7")]).await, Some(7 * SECOND));
    let error = error_of(ResponseTemplate::new(503).insert_header("retry-after", "0")).await;
    assert_eq!(error.retry_after(), None);
    let beyond = wait_of(&[("retry-after", "99999999999999999999999")]).await;
    assert!(beyond.is_some_and(|wait| wait > Duration::from_secs(1 << 60)), "{beyond:?}");
}

#[tokio::test]
async fn a_retry_after_is_never_shortened() {
    for (values, expected) in [
        (&["299.997"][..], 300),
        (&["0.001"], 1),
        (&["1e3"], 1_000),
        (&["300, 300"], 300),
        (&["7, 300"], 300),
        (&["300, abc"], 300),
        (&["7", "300", "8"], 300),
        (&["7", TWO_MINUTES_LATER], 120),
        (&[&[TWO_MINUTES_LATER, "7"].join(", ")], 120),
        (&[&["130", TWO_MINUTES_LATER].join(",")], 130),
        (&[&[DATE, TWO_MINUTES_LATER].join(", ")], 120),
    ] {
        let mut headers: Vec<_> = values.iter().map(|value| ("retry-after", *value)).collect();
        headers.push(("date", DATE));
        assert_eq!(wait_of(&headers).await, Some(expected * SECOND), "{values:?}");
    }
}

#[tokio::test]
async fn retry_after_is_derived_from_quota_headers() {
    let quota = "auth0-client-quota-limit";
    let hour = "b=per_hour;q=10;r=0;t=3540,b=per_day;q=50;r=12;t=43200";
    assert_eq!(wait_of(&[(quota, hour)]).await, Some(3_540 * SECOND));
    let both = "b=per_hour;q=10;r=0;t=3540,b=per_day;q=50;r=0;t=43200";
    assert_eq!(wait_of(&[(quota, both)]).await, Some(43_200 * SECOND));
    for (window, seconds) in [
        ("b=per_hour;q=10;r=0;t=3539.2", 3_540),
        ("b=per_hour;q=10.5;r=0.0;t=60", 60),
        ("b=per_hour;q=10;r=-1;t=60", 60),
    ] {
        assert_eq!(wait_of(&[(quota, window)]).await, Some(seconds * SECOND), "{window}");
    }
    // Some servers send a number of seconds instead of a time.
    assert_eq!(wait_of(&[("x-ratelimit-reset", "60"), ("date", DATE)]).await, Some(60 * SECOND));
    assert_eq!(wait_of(&[("x-ratelimit-reset", "0"), ("date", DATE)]).await, None);
    let reset = ("x-ratelimit-reset", TWO_MINUTES_LATER_UNIX);
    assert_eq!(wait_of(&[reset, ("date", DATE)]).await, Some(120 * SECOND));
    let two = format!("1700000000, {TWO_MINUTES_LATER_UNIX}");
    assert_eq!(wait_of(&[("x-ratelimit-reset", &two), ("date", DATE)]).await, Some(120 * SECOND));
    // Without a `Date` header, the time of receipt counts, which is later than this.
    let past = ("x-ratelimit-reset", "1700000000");
    assert_eq!(wait_of(&[past]).await, None);
    assert_eq!(wait_of(&[("retry-after", "7"), (quota, both)]).await, Some(7 * SECOND));
    for invalid in
        ["", "b=per_hour", "b=per_hour;q=10;r=0;t=-1", "nonsense;;==,,", "b=per_hour;q=10;r=5;t=60"]
    {
        assert_eq!(wait_of(&[(quota, invalid)]).await, None, "{invalid}");
    }
}

#[tokio::test]
async fn quota_headers_of_other_failures_are_ignored() {
    // Auth0 sends its limits with every response.
    let limits = "x-ratelimit-remaining: 42\r\nx-ratelimit-reset: 1795348920\r\n\
                  auth0-client-quota-limit: b=h;q=10;r=0;t=60";
    for status in ["503 Busy", "403 Forbidden", "500 Oops"] {
        let raw =
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\ndate: {DATE}\r\n{limits}\r\n\r\n");
        let server = RawServer::start(raw, AfterWrite::Close).await;
        let error = client_of(&server.url()).build().unwrap().fetch().await.expect_err(status);
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, None), "{status}");
    }
}
